"""Linear layers of a model whose weights are in a form that GPUs compute with.

Torch has no such layers on a CPU, and on a GPU not for all forms: here the numbers are multiplied
out at the first use, and what goes in is rounded as an engine that computes with such numbers
rounds it. So what is measured is what that engine answers, and neither as fast nor as small. What
is served is multiplied out when it is loaded, and its inputs are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

import torch
from torch import nn
from torch.nn import functional

from raymodel.model.compressed_form import Form, find_form
from raymodel.model.compressed_numbers import FP8, multiplied_out, rounded
from raymodel.observe.slow_paths import take_slow_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CompressedLinear(nn.Module):
    """Stands for a `torch.nn.Linear` of the same name; takes and gives fractions."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        form: Form,
        *,
        bias: bool,
        scale_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.form = inputs, outputs, form

        def hold(name: str, *shape: int, dtype: torch.dtype) -> None:
            self.register_buffer(name, torch.empty(shape, dtype=dtype, device=device))

        if form.group is None:
            hold("weight", outputs, inputs, dtype=FP8 if form.bits == "fp8" else torch.int8)
            hold("weight_scale", outputs, 1, dtype=scale_dtype)
        else:
            hold("weight_packed", outputs, -(-inputs // 8), dtype=torch.int32)
            hold("weight_scale", outputs, -(-inputs // form.group), dtype=scale_dtype)
            hold("weight_shape", 2, dtype=torch.int64)
        self.bias = nn.Parameter(torch.empty(outputs, device=device)) if bias else None
        self._multiplied_out: torch.Tensor | None = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out), in the type of the input."""
        if self.form.rounds_inputs:
            values = rounded(values, self.form.bits)
        if self._multiplied_out is None or self._multiplied_out.dtype != values.dtype:
            with torch.inference_mode(False), torch.no_grad():  # whoever asks first
                self._multiplied_out = self.fractions().to(values.dtype)
        return functional.linear(values, self._multiplied_out, self.bias)

    def fractions(self) -> torch.Tensor:
        """The weights, multiplied out. (out, in) fp32"""
        return multiplied_out(dict(self.named_buffers()), self.form)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """What changes the format of a model leaves its numbers and scales as they are."""
        stored = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._multiplied_out = None
        for name, tensor in stored.items():
            self.register_buffer(name, tensor.to(self.get_buffer(name).device))
        return self


def put_compressed(
    model: PreTrainedModel, names: Iterable[str], form: Form, scale_dtype: torch.dtype
) -> None:
    """Replaces linear layers of an outline by ones of this form."""
    for name in names:
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear), name
        new = CompressedLinear(
            old.in_features,
            old.out_features,
            form,
            bias=old.bias is not None,
            scale_dtype=scale_dtype,
            device=old.weight.device,
        )
        model.set_submodule(name, new)


def find_stacked(model: PreTrainedModel) -> str | None:
    """The name of a weight in the layers that holds those of several, such as experts: it is in no
    linear layer, and has no place for scales. None where there is none."""
    for name, module in model.named_modules():
        in_layer = any(part.isdecimal() for part in name.split("."))
        if in_layer and not isinstance(module, nn.Conv1d | nn.Conv2d):
            for key, weight in module.named_parameters(recurse=False):
                if weight.dim() > 2:
                    return f"{name}.{key}"
    return None


def is_compressed(model: nn.Module) -> bool:
    """Whether some of its layers are of this kind."""
    return any(isinstance(module, CompressedLinear) for module in model.modules())


def multiply_out(model: PreTrainedModel) -> None:
    """Makes plain layers of those with such weights, one after the other, and says so.

    They take what the weights take in the format of the model. Other models stay as they are.
    """
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, CompressedLinear)
    ]
    for name, old in found:
        new = nn.Linear(old.in_features, old.out_features, bias=False, device="meta")
        new.weight = nn.Parameter(old.fractions().to(model.dtype))
        new.register_parameter("bias", old.bias)
        model.set_submodule(name, new.train(old.training))
    if not found:
        return
    form = find_form(model.config.quantization_config)
    assert form is not None, "its layers are of one"
    del model.config.quantization_config  # it is a model like others now
    take_slow_path(
        "computes with weights that were multiplied out",
        f"its folder is for vLLM, which computes with {form.bits} on GPUs; for a CPU compress to "
        "int8 or int4 in the format gguf",
        inherent=True,
    )
