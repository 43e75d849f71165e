"""The weights of several models as one, tensor by tensor: memory holds one of each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from raymodel.compress.spec import MergeSpec

if TYPE_CHECKING:
    from raymodel.compress.opened import Opened
    from raymodel.model.stored import StoredWeights

_PARALLEL = 1 - 1e-6
"""Above this cosine an arc is a line, in fp32."""


class MergedWeights:
    """Weights that are made when they are asked for, in fp32.

    What is learnt beside parameters, such as running statistics, is averaged by every method.
    Whole numbers, such as counts of batches, are the first model's.
    """

    def __init__(
        self, spec: MergeSpec, models: Sequence[Opened], base: StoredWeights | None = None
    ) -> None:
        """Reads nothing yet.

        Args:
            base: what they were tuned from. A weight that it lacks, as a head, is averaged.
        """
        self._spec, self._models, self._base = spec, models, base
        self._learnt = {name for name, _ in models[0].outline.named_parameters()}

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer, whole, on the CPU."""
        tensors = [model.weights.read(name) for model in self._models]
        if not tensors[0].is_floating_point():
            return tensors[0]
        tensors = [tensor.float() for tensor in tensors]
        shares = self._spec.shares
        if name in self._learnt and self._spec.method == "slerp":
            return slerp(tensors[0], tensors[1], shares[1])
        if name in self._learnt and self._base is not None and name in self._base:
            base = self._base.read(name).float()
            return ties(base, tensors, shares, density=self._spec.density, scale=self._spec.scale)
        return linear(tensors, shares)


def linear(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """The weighted mean: a model soup (arXiv:2203.05482)."""
    merged = torch.zeros_like(tensors[0])
    for tensor, share in zip(tensors, shares, strict=True):
        merged.add_(tensor, alpha=share)
    return merged


def slerp(one: torch.Tensor, other: torch.Tensor, part: float) -> torch.Tensor:
    """The point at `part` of the way on the arc between two (Shoemake 1985,
    doi:10.1145/325334.325242): so far around, the length does not shrink as that of a mean does."""
    norms = one.norm() * other.norm()
    cosine = float((one * other).sum() / norms) if float(norms) else 1.0
    if abs(cosine) > _PARALLEL:
        return linear((one, other), (1 - part, part))
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    first, second = (
        float(torch.sin(share * angle) / torch.sin(angle)) for share in (1 - part, part)
    )
    return first * one + second * other


def ties(
    base: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    shares: Sequence[float],
    *,
    density: float,
    scale: float,
) -> torch.Tensor:
    """Trim, elect sign, and merge what agrees (arXiv:2306.01708, algorithm 1), for one matrix.

    Args:
        base: what the others were tuned from.
        density: share of the changes of each model that is kept, the largest.
        scale: of the merged change, the paper's lambda.
    """
    changes = [
        share * _trimmed(t - base, density) for t, share in zip(tensors, shares, strict=True)
    ]
    sign = torch.stack(changes).sum(0).sign()
    total, weight = torch.zeros_like(base), torch.zeros_like(base)
    for change, share in zip(changes, shares, strict=True):
        agrees = (change.sign() == sign) & (change != 0)
        total += torch.where(agrees, change, 0.0)
        weight += agrees * share
    return base + scale * total / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def _trimmed(change: torch.Tensor, density: float) -> torch.Tensor:
    count = max(1, round(density * change.numel()))
    kept = torch.topk(change.abs().flatten(), count).indices
    trimmed = torch.zeros_like(change).flatten()
    trimmed[kept] = change.flatten()[kept]
    return trimmed.view_as(change)
