"""From a model on the meta device to one with weights, one parameter at a time.

A process then holds what it keeps, and besides that a single parameter: never a second copy of the
model, and never a whole model where ZeRO-3 or tensor parallelism shares it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from raymodel.heap import give_back_freed_memory
from raymodel.model.initial import Weights

ModuleT = TypeVar("ModuleT", bound=nn.Module)
LARGE_BYTES = 2**20
"""Of a parameter behind which freed memory is given back."""


def materialise(
    network: ModuleT,
    weights: Weights,
    dtype: torch.dtype,
    *,
    settle: Callable[[nn.Parameter], None] = lambda parameter: None,
) -> ModuleT:
    """Gives every parameter and buffer of `network` its content, in the order of the modules.

    Args:
        network: On the meta device. Tied parameters stay tied, frozen ones frozen.
        weights: Asked once for each parameter and each buffer.
        dtype: Of the floating-point parameters. Buffers keep theirs: rounded to bf16, the
            frequencies of a rotary embedding would turn by other angles.
        settle: Called with each parameter that was made, before the next one is: ZeRO-3 keeps this
            rank's share of it and frees the rest.
    """

    def make(name: str, meta: nn.Parameter) -> nn.Parameter:
        value = weights.read(name)
        assert value.shape == meta.shape, (value.shape, meta.shape)
        made = _parameter(meta, value.to(dtype) if meta.is_floating_point() else value)
        settle(made)
        if meta.nbytes >= LARGE_BYTES:
            # A rank's small share of a parameter lies behind the large whole one: without this,
            # four ranks that keep a quarter each took the room of four models.
            give_back_freed_memory()
        return made

    _replace_parameters(network, make)
    _fill_buffers(network, weights)
    return network


def stand_in(
    network: ModuleT, weights: Weights, dtype: torch.dtype, device: torch.device
) -> ModuleT:
    """Gives every parameter its shape on `device` and the memory of one element, all of them zero.

    For what cuts parameters up by their shape, and has them filled part by part. Buffers get their
    content. Arguments are those of `materialise`.
    """

    def make(name: str, meta: nn.Parameter) -> nn.Parameter:
        of_type = dtype if meta.is_floating_point() else meta.dtype
        return _parameter(meta, torch.zeros((), dtype=of_type, device=device).expand(meta.shape))

    _replace_parameters(network, make)
    _fill_buffers(network, weights)
    return network


def _replace_parameters(
    network: nn.Module, make: Callable[[str, nn.Parameter], nn.Parameter]
) -> None:
    """Tied parameters stay tied: each is made once, by its first name."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for prefix, module in network.named_modules():
        for key, meta in list(module._parameters.items()):
            if meta is None:
                continue
            if meta not in made:
                made[meta] = make(_join(prefix, key), meta)
            module._parameters[key] = made[meta]


def _fill_buffers(network: nn.Module, weights: Weights) -> None:
    for prefix, module in network.named_modules():
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[key] = weights.read(_join(prefix, key)).to(buffer.dtype)


def _parameter(meta: nn.Parameter, content: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(content, requires_grad=meta.requires_grad)


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
