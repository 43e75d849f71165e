"""What computes a batch: the forward pass of a model, in one library and one format of numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from raymodel.serve.spec import EngineName

Tensors = Mapping[str, torch.Tensor]


class Pass(ABC):
    """Computes what a model says to a batch; called by one thread at a time."""

    engine: ClassVar[EngineName]
    """As `serve.engine` calls it."""
    dtype: str
    """Of the numbers that it multiplies."""

    @property
    def name(self) -> str:
        """Such as `openvino in bfloat16`."""
        return f"{self.engine} in {self.dtype}"

    def takes(self, inputs: Tensors) -> bool:
        """Whether it can be given inputs of these names."""
        return True

    @abstractmethod
    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """The tensors among what the model gives, by name.

        Args:
            inputs: by the names of the model's arguments; fractions in fp32.
        """


class TorchPass(Pass):
    """The model itself, on its device and in its dtype."""

    engine = "transformers"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.dtype = str(model.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        model = self.model
        placed = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }
        return tensors_of(model(**placed))


def tensors_of(output: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Those of a model's output; a cache, or the states of all layers, are none."""
    return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}
