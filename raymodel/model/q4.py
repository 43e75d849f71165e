"""Blocks of four bits: GGUF's Q4_1, in which 32 neighbours of a row share a step and a least value.

A block's step is not that of its ends, which a single large weight would decide: of several steps
the one is taken with which the outputs change least. How much a weight changes them, the mean
square of the input that it is multiplied by tells (the diagonal of the Hessian of arXiv:2210.17323;
errors are not moved between columns here).

The least value is a whole number of steps, from 0 to 15, below zero. The format takes any, but
OpenVINO makes such a number of it when it reads the file (2026.4): weights would be off by up to
half a step there, all of a block in one direction. So every reader has the same weights.
Source of the layout: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, `block_q4_1`:
step, least value, then 16 bytes with number i in the low and i + 16 in the high half.
"""

from __future__ import annotations

import numpy as np
import torch

BLOCK = 32
_LEVELS = 15  # steps between the least and the largest number of four bits
# Trial steps, as shares of the one that spans the block: from leaving ends out to leaving room.
_NARROWEST, _WIDEST, _TRIALS = 0.7, 1.1, 9
_CHUNK_BLOCKS = 2**16  # at a time, so that what is tried needs 100 MB and not ten matrices


def to_q4_1(weight: torch.Tensor, importance: torch.Tensor | None = None) -> np.ndarray:
    """The bytes of a matrix. (O, I) → (O, I / 32 * 20) uint8

    Args:
        weight: fp32; its rows are a multiple of 32 numbers.
        importance: (I,) of each input, the mean of its square; without, all are alike.
    """
    blocks_N32 = weight.reshape(-1, BLOCK)
    if importance is None:
        importance = torch.ones(weight.shape[1])
    # A little for inputs that were never met: their weights must not become anything.
    floor = float(importance.mean()) * 1e-4 + torch.finfo(torch.float32).tiny
    counts = importance.float().clamp(min=floor).reshape(-1, BLOCK)
    per_row = len(counts)
    parts = []
    for start in range(0, len(blocks_N32), _CHUNK_BLOCKS):
        blocks = blocks_N32[start : start + _CHUNK_BLOCKS]
        places = torch.arange(start, start + len(blocks)) % per_row
        parts.append(_packed(blocks, *_fit(blocks, counts[places])))
    return np.concatenate(parts).reshape(len(weight), -1)


def _fit(blocks_N32: torch.Tensor, counts_N32: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The step of each block, rounded to f16, and the number that stands for zero. (N, 1) each"""
    # Zero is among the numbers, so a block whose weights have one sign begins or ends there.
    least = blocks_N32.amin(1, keepdim=True).clamp(max=0)
    span = (blocks_N32.amax(1, keepdim=True).clamp(min=0) - least) / _LEVELS
    best_step, best_zero = torch.zeros_like(span), torch.zeros_like(span)
    best_error = torch.full_like(span, torch.inf)
    for share in torch.linspace(_NARROWEST, _WIDEST, _TRIALS).tolist():
        # What is left out at both ends together, or the room: half of it below.
        trial = span * share
        below = -(least + (span - trial) * _LEVELS / 2) / or_one(trial)
        for zero in (below.floor().clamp(0, _LEVELS), below.ceil().clamp(0, _LEVELS)):
            step = regressed(blocks_N32, counts_N32, trial, zero, torch.float16)
            made = (numbers_of(blocks_N32, step, zero) - zero) * step
            error = (counts_N32 * (made - blocks_N32).square()).sum(1, keepdim=True)
            is_better = error < best_error
            best_error = torch.where(is_better, error, best_error)
            best_step = torch.where(is_better, step, best_step)
            best_zero = torch.where(is_better, zero, best_zero)
    return best_step, best_zero


def regressed(
    blocks: torch.Tensor,
    counts: torch.Tensor,
    step: torch.Tensor,
    zero: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The best step for the numbers that a step gives, by weighted least squares through zero, and
    rounded to the type that is stored. (N, 1) fp32"""
    numbers = numbers_of(blocks, step, zero) - zero
    spread = (counts * numbers * numbers).sum(1, keepdim=True)
    slope = (counts * numbers * blocks).sum(1, keepdim=True)
    return torch.where(spread > 0, slope / or_one(spread), step).to(dtype).float()


def numbers_of(blocks: torch.Tensor, step: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """The numbers of 0 to 15 that are nearest, as fractions."""
    return torch.where(step == 0, zero, ((blocks / or_one(step)).round() + zero).clamp(0, _LEVELS))


def or_one(values: torch.Tensor) -> torch.Tensor:
    """To divide by: 1 where there is nothing."""
    return torch.where(values == 0, 1.0, values)


def _packed(blocks: torch.Tensor, step: torch.Tensor, zero: torch.Tensor) -> np.ndarray:
    numbers = numbers_of(blocks, step, zero).to(torch.uint8)
    halves = numbers.view(-1, 2, BLOCK // 2)
    pairs = halves[:, 0] | (halves[:, 1] << 4)
    ends = torch.cat([step, -zero * step], 1).to(torch.float16).contiguous().view(torch.uint8)
    return torch.cat([ends, pairs], 1).numpy()
