"""The number format of weights, without touching what must stay in fp32.

`module.to(bfloat16)` also casts buffers, among them the rotary embedding's frequencies: the model
then turns by other angles than the same weights loaded again, where they are computed in fp32.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Buffers = dict[str, torch.Tensor]


def cast_parameters(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """Casts every floating-point parameter in place; buffers keep their format."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return module


def copy_buffers(module: nn.Module) -> Buffers:
    """The floating-point buffers as they are now, to be put back after something cast them."""
    return {n: b.detach().clone() for n, b in module.named_buffers() if b.is_floating_point()}


def restore_buffers(module: nn.Module, buffers: Buffers) -> None:
    """Puts `copy_buffers` back, on the device where each buffer is now.

    DeepSpeed's fp16 and bf16 engines cast the whole module: copy before it, restore after.
    """
    for name, saved in buffers.items():
        owner_name, _, attribute = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        setattr(owner, attribute, saved.to(getattr(owner, attribute).device))
