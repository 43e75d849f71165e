"""Rows of all workers of a step in one matrix, through which gradients flow back.

For losses that hold a row against the others of its step (`sees_whole_step` of a task's spec). The
losses of the workers, each of its own rows, add up to that of the step; so what reaches a row's
gradient is the sum of what the losses of all workers say of it.

Shapes: n rows of this worker, N of all, D numbers of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Gathered(NamedTuple):
    """The rows of all workers, in the order of the workers."""

    rows: torch.Tensor  # (N, D)
    start: int
    """Where this worker's own begin."""


def gather_rows(rows_nD: torch.Tensor) -> Gathered:
    """The rows of all workers, who may have different numbers of them, or none.

    Every worker calls it as often as the others, and so does its backward pass: what is made of the
    result must be part of each worker's loss. Without a process group a worker is alone.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Gathered(rows_nD, 0)
    counts = _counts(rows_nD)
    start = sum(counts[: dist.get_rank()])
    rows_ND: torch.Tensor = _Gather.apply(rows_nD, counts)  # type: ignore[no-untyped-call]
    return Gathered(rows_ND, start)


def _counts(rows_nD: torch.Tensor) -> list[int]:
    own = torch.tensor([len(rows_nD)], dtype=torch.int64, device=rows_nD.device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    return [int(count) for count in torch.cat(counts).tolist()]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_nD: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.span = slice(start := sum(counts[: dist.get_rank()]), start + len(rows_nD))
        # Collectives take tensors of one size only: each worker fills up to the longest.
        padded = rows_nD.new_zeros((max(counts), *rows_nD.shape[1:]))
        padded[: len(rows_nD)] = rows_nD
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad_ND = grads[0].contiguous().clone()
        dist.all_reduce(grad_ND)
        return grad_ND[ctx.span], None
