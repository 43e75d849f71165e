"""From a model on the meta device to one with weights, one parameter at a time.

A process then holds what it keeps, and besides that a single parameter: never a second copy of the
model, and under ZeRO-3 never a whole model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from raymodel.heap import give_back_freed_memory
from raymodel.model.initial import Weights

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_LARGE_BYTES = 2**20


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
    made: dict[nn.Parameter, nn.Parameter] = {}
    for prefix, module in network.named_modules():
        for key, tensor in list(module._parameters.items()):
            if tensor is None:
                continue
            if tensor not in made:
                made[tensor] = _parameter(tensor, weights.read(_join(prefix, key)), dtype)
                settle(made[tensor])
                if tensor.nbytes >= _LARGE_BYTES:
                    # A rank's small share of a parameter lies behind the large whole one: without
                    # this, four ranks that keep a quarter each took the room of four models.
                    give_back_freed_memory()
            module._parameters[key] = made[tensor]
        for key, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[key] = weights.read(_join(prefix, key)).to(buffer.dtype)
    return network


def _parameter(meta: nn.Parameter, value: torch.Tensor, dtype: torch.dtype) -> nn.Parameter:
    assert value.shape == meta.shape, (value.shape, meta.shape)
    content = value.to(dtype) if meta.is_floating_point() else value
    return nn.Parameter(content, requires_grad=meta.requires_grad)


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
