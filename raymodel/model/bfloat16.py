"""Matrix products of bf16 on a CPU that has no instructions for them.

PyTorch gives such products to oneDNN, which refuses them without AVX-512 or AMX (x86) or BF16
(Arm), and then to a loop of its own in which a step takes some twenty times as long as in fp32
(`benchmarks/bfloat16.py`). Computed in fp32 and rounded, they are as exact: a product of two bf16
numbers is an fp32 number, and the instructions too add in fp32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
"""What `linear`, `matmul` and `einsum` come down to, forward and backward. Attention needs no help:
its CPU kernel keeps its own products in fp32."""

_library: torch.library.Library | None = None


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies matrices of bf16 itself, in oneDNN's own answer."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def speed_up_bf16() -> None:
    """From here on this process computes bf16 products on the CPU in fp32, where that is faster."""
    global _library
    if _library is not None or has_fast_bf16():
        return
    _library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel of PyTorch is replaced, which is meant
        for name in _PRODUCTS:
            _library.impl(name, _in_fp32(name), "CPU", with_keyset=True)  # type: ignore[no-untyped-call]


def _in_fp32(name: str) -> Callable[..., Any]:
    kernel = torch.library.get_kernel(f"aten::{name}", "CPU")

    def product(keys: Any, first: torch.Tensor, *others: Any, **scales: Any) -> Any:
        if first.dtype is not torch.bfloat16:
            return kernel.call_boxed(keys, first, *others, **scales)
        factors = (factor.float() for factor in (first, *others))
        return kernel.call_boxed(keys, *factors, **scales).bfloat16()

    return product
