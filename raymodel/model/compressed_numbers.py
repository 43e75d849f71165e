"""Matrices as numbers of fewer bits with scales, and back: the arithmetic of the forms.

Scales are rounded to the type that the file has them in before numbers are chosen by them, so that
every program has the same weights, whatever it computes in.
Source of the layout of four bits: https://github.com/vllm-project/compressed-tensors,
`compressors/pack_quantized`: eight neighbours in 32 bits, the first in the lowest, eight added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from raymodel.model.q4 import numbers_of, or_one, regressed

if TYPE_CHECKING:
    from raymodel.compress.spec import Bits
    from raymodel.model.compressed_form import Form

FP8 = torch.float8_e4m3fn
LARGEST: Mapping[Bits, float] = {"fp8": torch.finfo(FP8).max, "int8": 127.0}
"""Both ways: of int8, -128 is left out, so that zero is in the middle."""
_ZERO = 8  # of four bits: what stands for it, of 0 to 15
# Trial scales, as shares of the one with which the largest weight of a group is the last number.
_NARROWEST, _WIDEST, _TRIALS = 0.7, 1.1, 9
_CHUNK = 2**21  # numbers at a time, so that what is tried needs 100 MB and not ten matrices


def to_numbers(
    weight: torch.Tensor,
    form: Form,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """A matrix as the tensors that a file has of it, by their names there.

    Args:
        weight: (O, I) of fractions; of four bits, I is a multiple of the group.
        importance: of four bits, (I,) the mean square of each input; without, all are alike.

    Returns:
        `weight` (O, I) and `weight_scale` (O, 1); or, of four bits, `weight_packed` (O, I / 8),
        `weight_scale` (O, I / group) and `weight_shape` (2,).
    """
    weight = weight.float()
    if form.bits == "int4":
        return _to_int4(weight, form, scale_dtype, importance)
    most = LARGEST[form.bits]
    scale = (weight.abs().amax(1, keepdim=True) / most).to(scale_dtype)
    shares = (weight / or_one(scale.float())).clamp(-most, most)
    numbers = shares.to(FP8) if form.bits == "fp8" else shares.round().to(torch.int8)
    return {"weight": numbers, "weight_scale": scale}


def multiplied_out(tensors: Mapping[str, torch.Tensor], form: Form) -> torch.Tensor:
    """The matrix that `to_numbers` made such tensors of. (O, I) fp32"""
    scale = tensors["weight_scale"].float()
    if form.bits != "int4":
        return tensors["weight"].float() * scale
    numbers = _unpacked(tensors["weight_packed"], tensors["weight_packed"].shape[1] * 8)
    groups = numbers.reshape(*scale.shape, -1) * scale[:, :, None]
    return groups.flatten(1)


def rounded(values: torch.Tensor, bits: Bits) -> torch.Tensor:
    """What goes into a layer, each token in numbers with a scale of its own. (…, I) → (…, I)"""
    fractions = values.float()
    scale = or_one(fractions.abs().amax(-1, keepdim=True) / LARGEST[bits])
    shares = fractions / scale
    made = shares.to(FP8).float() if bits == "fp8" else shares.round()
    return (made * scale).to(values.dtype)


def _to_int4(
    weight: torch.Tensor,
    form: Form,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    assert form.group is not None, "numbers of four bits have groups"
    if importance is None:
        importance = torch.ones(weight.shape[1])
    # A little for inputs that were never met: their weights must not become anything.
    floor = float(importance.mean()) * 1e-4 + torch.finfo(torch.float32).tiny
    counts = importance.float().clamp(min=floor).reshape(-1, form.group)
    numbers, scales = [], []
    for rows in torch.split(weight, max(1, _CHUNK // weight.shape[1])):
        groups = rows.reshape(-1, form.group)
        step = _fit(groups, counts.repeat(len(rows), 1), scale_dtype)
        numbers.append(numbers_of(groups, step, _zeros(step)).reshape(len(rows), -1))
        scales.append(step.reshape(len(rows), -1))
    return {
        "weight_packed": _packed(torch.cat(numbers).to(torch.uint8)),
        "weight_scale": torch.cat(scales).to(scale_dtype),
        "weight_shape": torch.tensor(weight.shape),
    }


def _fit(groups_NG: torch.Tensor, counts_NG: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The scale of each group with which the outputs of the layer change least, rounded. (N, 1)

    As `q4.py` finds it, but that zero is always the same number.
    """
    whole = groups_NG.abs().amax(1, keepdim=True) / (_ZERO - 0.5)
    best, least = torch.zeros_like(whole), torch.full_like(whole, torch.inf)
    for share in torch.linspace(_NARROWEST, _WIDEST, _TRIALS).tolist():
        zero = _zeros(whole)
        step = regressed(groups_NG, counts_NG, whole * share, zero, dtype)
        made = (numbers_of(groups_NG, step, zero) - zero) * step
        error = (counts_NG * (made - groups_NG).square()).sum(1, keepdim=True)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    return best


def _zeros(like: torch.Tensor) -> torch.Tensor:
    return torch.full_like(like, _ZERO)


def _packed(numbers: torch.Tensor) -> torch.Tensor:
    """(O, I) of 0 to 15 → (O, I / 8) of 32 bits."""
    pairs = numbers[:, ::2] | (numbers[:, 1::2] << 4)
    return pairs.contiguous().view(torch.int32)


def _unpacked(packed: torch.Tensor, inputs: int) -> torch.Tensor:
    """(O, I / 8) of 32 bits → (O, I) of -8 to 7, as fractions."""
    pairs = packed.contiguous().view(torch.uint8)
    numbers = torch.stack((pairs & 15, pairs >> 4), 2).flatten(1)
    return numbers[:, :inputs].float() - _ZERO
