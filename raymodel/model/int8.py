"""Linear layers whose weights are stored, and computed with, as whole numbers of 8 bits.

Each row of a matrix (an output) has a scale of its own, so that weight = number × scale; what goes
in is rounded to 8 bits when it is known, in one step over all of it (dynamic quantisation,
arXiv:1712.05877). The folder is in the form `int8` of `compressed_form.py`, with scales in fp32.
"""

from __future__ import annotations

import functools
import platform
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn import functional

from raymodel.observe.slow_paths import take_slow_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Int8Linear(nn.Module):
    """Stands for a `torch.nn.Linear` of the same name; takes and gives fractions."""

    weight: torch.Tensor
    weight_scale: torch.Tensor

    def __init__(self, inputs: int, outputs: int, *, bias: bool, device: torch.device) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        numbers = torch.empty(outputs, inputs, dtype=torch.int8, device=device)
        self.register_buffer("weight", numbers)
        self.register_buffer("weight_scale", torch.empty(outputs, 1, device=device))
        self.bias = nn.Parameter(torch.empty(outputs, device=device)) if bias else None
        self._packed: Any = None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out), in the type of the input."""
        if values.device.type != "cpu" or _engine() is None:
            _note_no_int8(values.device.type)
            weight = self.weight.to(values.dtype) * self.weight_scale.to(values.dtype)
            return functional.linear(values, weight, self.bias)
        if self._packed is None:
            self._packed = self._pack()
        multiply = torch.ops.quantized.linear_dynamic
        out: torch.Tensor = multiply(values.float(), self._packed, input_bits() == 7)
        return out.to(values.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """What moves a model, or changes its format, leaves the scales in fp32: in bf16 whole rows
        would be off by as much as their numbers are rounded."""
        scale = self.weight_scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._packed = None
        self.weight_scale = scale.to(self.weight_scale.device)
        return self

    def _pack(self) -> Any:
        """The matrix in the order in which the processor reads it; made once, at the first use."""
        engine = _engine()
        assert engine is not None, "the caller looked"
        torch.backends.quantized.engine = engine
        rows = len(self.weight)
        scales, zeros = self.weight_scale.view(-1).double(), torch.zeros(rows, dtype=torch.int64)
        with warnings.catch_warnings():  # a later torch will lack it, which pyproject.toml excludes
            warnings.simplefilter("ignore", UserWarning)
            matrix = torch._make_per_channel_quantized_tensor(self.weight, scales, zeros, 0)
        bias = None if self.bias is None else self.bias.detach().float()
        return torch.ops.quantized.linear_prepack(matrix, bias)


def linear_layers(model: nn.Module) -> list[str]:
    """Names of all layers that could be of this kind."""
    return [name for name, module in model.named_modules() if type(module) is nn.Linear]


def put_int8(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Replaces linear layers of an outline by ones of whole numbers."""
    for name in names:
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear), name
        new = Int8Linear(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            device=old.weight.device,
        )
        model.set_submodule(name, new)


@functools.cache
def input_bits() -> int:
    """Of what goes into a layer here. x86 processors without VNNI add two products in 16 bits,
    where those of 8 bits do not fit; with 7, MiniLM's sentences lie three times as far from those
    of fp32 (a cosine of 0.98 instead of 0.994)."""
    is_x86 = _engine() == "x86"
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)()
    return 7 if is_x86 and not has_vnni else 8


def _engine() -> str | None:
    """What of torch multiplies whole numbers on this processor; None where nothing does.

    `x86` takes the faster of its two for each shape.
    """
    able = torch.backends.quantized.supported_engines
    wanted = "x86" if platform.machine() in ("x86_64", "AMD64") else "qnnpack"
    return wanted if wanted in able else None


def _note_no_int8(device: str) -> None:
    take_slow_path(
        "computes with fractions that are made of whole numbers each time",
        f"torch {torch.__version__} has no linear layers of 8 bits on {device} here",
        inherent=True,
    )
