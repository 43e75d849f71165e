"""Cross-entropy that holds nothing of the size of the logits beside the logits.

With B=32 rows, T=4096 and V=128256, logits in bf16 are 33 GB and `F.cross_entropy(logits.float())`
keeps two fp32 tensors of twice that beside them. Here both passes walk over chunks of rows: the
forward keeps one fp32 number a row (the log of the sum of exponentials), from which the backward
recomputes the probabilities of each chunk and writes the gradient over the logits.

Shapes: N targets, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100
"""The label that bears no loss, as in `torch.nn.functional.cross_entropy`."""

# fp32 elements in one chunk. On a CPU half a megabyte stays in a core's cache, which made both
# passes twice as fast as over the whole (4,096 x 4,096, one thread). On a GPU 256 MiB keeps the
# number of kernel launches small and is still far below the logits themselves.
_CHUNK_ELEMENTS_CPU = 2**17
_CHUNK_ELEMENTS_GPU = 2**26


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of N targets: the logits of V ids or classes, and which of them is right.

    Two may be right, where one example is mixed into another.
    """

    logits_NV: torch.Tensor
    targets_N: torch.Tensor
    """Ids or classes, `IGNORED` where none bears loss."""
    others_N: torch.Tensor | None = None
    """Those of what is mixed in."""
    share_N: torch.Tensor | None = None
    """Of the target, from 0 to 1; the rest is that of the other one."""

    def loss(self) -> torch.Tensor:
        """Sum of the cross-entropy over the targets, a scalar in fp32."""
        if self.others_N is None or self.share_N is None:
            return cross_entropy_sum(self.logits_NV, self.targets_N)
        return mixed_cross_entropy_sum(self.logits_NV, self.targets_N, self.others_N, self.share_N)


def next_token_loss(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Sum over the batch of -log p(labels[:, t+1] | tokens up to t), a scalar in fp32.

    The labels are shifted, not the logits: a shifted view of the logits would have to be copied
    to become a matrix.
    """
    return cross_entropy_sum(logits_BTV.flatten(0, 1), shifted(labels_BT).flatten())


def shifted(labels_BT: torch.Tensor) -> torch.Tensor:
    """The target of each position: the label of the next one, none at the end of the row."""
    targets_BT = torch.full_like(labels_BT, IGNORED)
    targets_BT[:, :-1] = labels_BT[:, 1:]
    return targets_BT


def next_token_losses(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """-log p(labels[:, t+1] | tokens up to t) of each position, 0 where it is `IGNORED`. (B, T)
    fp32"""
    losses_N = cross_entropy(logits_BTV.flatten(0, 1), shifted(labels_BT).flatten())
    return losses_N.view(labels_BT.shape)


def cross_entropy_sum(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Sum of `cross_entropy` over all targets, a scalar in fp32."""
    return cross_entropy(logits_NV, targets_N).sum()


def mixed_cross_entropy_sum(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    others_N: torch.Tensor,
    share_N: torch.Tensor,
) -> torch.Tensor:
    """Sum of share * cross-entropy of the target + (1 - share) * that of the other one, a scalar
    in fp32.

    Args:
        share_N: of the target, from 0 to 1.
    """
    # Twice the same logits, of which each pass backwards writes over its own.
    losses_2N = cross_entropy(logits_NV.repeat(2, 1), torch.cat([targets_N, others_N]))
    return torch.cat([share_N, 1 - share_N]).to(losses_2N) @ losses_2N


def cross_entropy(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each target, 0 of those that are `IGNORED`. (N,) fp32

    The backward pass puts the gradient in the place of the logits; autograd refuses that where
    what made them still needs them.
    """
    targets_N = targets_N.to(logits_NV.device)
    losses_N: torch.Tensor = _CrossEntropy.apply(logits_NV, targets_N)  # type: ignore[no-untyped-call]
    return losses_N


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        log_sum_N = logits_NV.new_zeros(len(targets_N), dtype=torch.float32)
        losses_N = torch.zeros_like(log_sum_N)
        for rows in chunks(logits_NV):
            logits = logits_NV[rows].float()
            bears_loss = targets_N[rows] != IGNORED
            picked = logits.gather(1, targets_N[rows].clamp(min=0)[:, None])[:, 0]
            log_sum_N[rows] = torch.logsumexp(logits, dim=1)
            # `where`, not a product: an infinity in a row without a target must not become NaN.
            losses_N[rows] = torch.where(bears_loss, log_sum_N[rows] - picked, 0.0)
        ctx.save_for_backward(logits_NV, targets_N, log_sum_N)
        return losses_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_N: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits_NV, targets_N, log_sum_N = ctx.saved_tensors
        for rows in chunks(logits_NV):
            targets = targets_N[rows]
            delta = (logits_NV[rows].float() - log_sum_N[rows, None]).exp_()
            delta.scatter_add_(1, targets.clamp(min=0)[:, None], _minus_ones(targets))
            delta.mul_(grad_N[rows, None])
            ignored = targets == IGNORED
            # A pass over the chunk costs more than to look, and on a GPU to look would be to wait.
            if delta.is_cuda or ignored.any():
                delta.masked_fill_(ignored[:, None], 0.0)
            logits_NV[rows] = delta
        return logits_NV, None


def _minus_ones(targets_N: torch.Tensor) -> torch.Tensor:
    return torch.full((len(targets_N), 1), -1.0, device=targets_N.device)


def chunks(logits_NV: torch.Tensor) -> Iterator[slice]:
    """Runs of rows that are computed in fp32 at a time."""
    elements = _CHUNK_ELEMENTS_GPU if logits_NV.is_cuda else _CHUNK_ELEMENTS_CPU
    num_rows, num_classes = logits_NV.shape
    step = max(1, elements // max(1, num_classes))
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))
