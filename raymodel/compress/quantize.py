"""Models whose layers compute with whole numbers of 8 bits."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from raymodel.compress.opened import Opened
from raymodel.compress.prune import layer_matrices
from raymodel.compress.rules import why_not_quantised
from raymodel.errors import SpecError
from raymodel.model.initial import Weights
from raymodel.model.int8 import SCALE, int8_config, linear_layers, put_int8, to_int8
from raymodel.model.own import OwnModel

if TYPE_CHECKING:
    from raymodel.compress.spec import Bits
    from raymodel.tasks.base import Task


def quantised(model: Opened, task: Task, bits: Bits) -> Opened:
    """The model with the linear layers of its stack in 8 bits; embeddings and head stay.

    Raises:
        SpecError: it has none, is a user's own module, or its task has no models of such bits.
    """
    if reason := why_not_quantised(type(task), bits):
        raise SpecError(f"compress.quantize: {reason}")
    names = [name.removesuffix(".weight") for name in layer_matrices(model.outline)]
    outline = copy.deepcopy(model.outline)
    every = linear_layers(outline)
    names = [name for name in names if name in every]
    if not names or isinstance(outline, OwnModel):
        raise SpecError(
            f"compress.quantize: a {type(outline).__name__} has no linear layers in a stack, which "
            "are what is computed in 8 bits"
        )
    put_int8(outline, names)
    outline.config.quantization_config = int8_config({*every} - {*names})
    return Opened(outline, _Int8Weights(model.weights, names), model.dtype)


class _Int8Weights:
    """Weights of a model, of which some are whole numbers with scales."""

    def __init__(self, weights: Weights, names: list[str]) -> None:
        self._weights, self._names = weights, frozenset(names)
        self._scale: tuple[str, torch.Tensor] | None = None

    def read(self, name: str) -> torch.Tensor:
        layer, _, key = name.rpartition(".")
        if layer not in self._names or key == "bias":
            return self._weights.read(name)
        if key == SCALE and self._scale is not None and self._scale[0] == layer:
            scale = self._scale[1]
            self._scale = None
            return scale
        numbers, scale = to_int8(self._weights.read(f"{layer}.weight"))
        if key == SCALE:
            return scale
        self._scale = layer, scale  # asked for next
        return numbers
