"""Learning from a teacher: the loss of a student that is held to what another model says.

The loss of a target is (1 - weight) * cross-entropy + weight * T² * KL(teacher ‖ student), in which
the distributions of both are those of their logits over T, the temperature (arXiv:1503.02531). T²
makes up for what T takes from the gradient, so that `weight` means the same at any temperature.

Over a vocabulary each of these distributions is as large as the logits. They are made in fp32 for
a few rows at a time, once in each direction, and only numbers of a row are kept in between: beside
the logits of both models, in the format that they come in, there is no tensor of that size. The
gradient takes the place of the student's.

Shapes: N targets, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from raymodel.tasks.loss import IGNORED, Scores, chunks


def distilled_loss_sum(
    student: Scores, teacher_NV: torch.Tensor, *, temperature: float, weight: float
) -> torch.Tensor:
    """Sum of the loss over the targets, a scalar in fp32.

    Args:
        student: what the model that learns says.
        teacher_NV: the logits of its teacher for the same rows, without a gradient.
        temperature: both are divided by it.
        weight: of the teacher, from 0 to 1; the rest is that of the targets.
    """
    if student.others_N is None or student.share_N is None:
        return _losses(student.logits_NV, student.targets_N, teacher_NV, temperature, weight).sum()
    losses_2N = _losses(
        student.logits_NV.repeat(2, 1),
        torch.cat([student.targets_N, student.others_N]),
        teacher_NV.repeat(2, 1),
        temperature,
        weight,
    )
    return torch.cat([student.share_N, 1 - student.share_N]).to(losses_2N) @ losses_2N


def _losses(
    logits_NV: torch.Tensor,
    targets_N: torch.Tensor,
    teacher_NV: torch.Tensor,
    temperature: float,
    weight: float,
) -> torch.Tensor:
    """The loss of each target, 0 of those that are `IGNORED`. (N,) fp32"""
    losses_N: torch.Tensor = _Distilled.apply(  # type: ignore[no-untyped-call]
        logits_NV, targets_N.to(logits_NV.device), teacher_NV, temperature, weight
    )
    return losses_N


class _Distilled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_NV: torch.Tensor,
        targets_N: torch.Tensor,
        teacher_NV: torch.Tensor,
        temperature: float,
        weight: float,
    ) -> torch.Tensor:
        log_sum_N, soft_sum_N, teacher_sum_N, losses_N = (
            logits_NV.new_zeros(len(targets_N), dtype=torch.float32) for _ in range(4)
        )
        for rows in chunks(logits_NV):
            logits, teacher = logits_NV[rows].float(), teacher_NV[rows].float()
            log_sum_N[rows] = torch.logsumexp(logits, dim=1)
            picked = logits.gather(1, targets_N[rows].clamp(min=0)[:, None])[:, 0]
            hard = log_sum_N[rows] - picked
            # New tensors: of fp32 `float` gives the one that came in.
            logits, teacher = logits / temperature, teacher / temperature
            soft_sum_N[rows] = torch.logsumexp(logits, dim=1)
            teacher_sum_N[rows] = torch.logsumexp(teacher, dim=1)
            told = (teacher - teacher_sum_N[rows, None]).exp_()
            apart = soft_sum_N[rows] - teacher_sum_N[rows]
            soft = told.mul_(teacher.sub_(logits)).sum(1) + apart
            # `where`, not a product: an infinity in a row without a target must not become NaN.
            losses = (1 - weight) * hard + weight * temperature**2 * soft
            losses_N[rows] = torch.where(targets_N[rows] != IGNORED, losses, 0.0)
        ctx.save_for_backward(
            logits_NV, targets_N, teacher_NV, log_sum_N, soft_sum_N, teacher_sum_N
        )
        ctx.temperature, ctx.weight = temperature, weight
        return losses_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_N: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        logits_NV, targets_N, teacher_NV, log_sum_N, soft_sum_N, teacher_sum_N = ctx.saved_tensors
        temperature, weight = ctx.temperature, ctx.weight
        for rows in chunks(logits_NV):
            logits, targets = logits_NV[rows].float(), targets_N[rows]
            soft = (logits / temperature - soft_sum_N[rows, None]).exp_()
            told = (teacher_NV[rows].float() / temperature - teacher_sum_N[rows, None]).exp_()
            delta = (logits - log_sum_N[rows, None]).exp_().mul_(1 - weight)
            delta.scatter_add_(
                1, targets.clamp(min=0)[:, None], delta.new_full((len(targets), 1), weight - 1)
            )
            delta.add_(soft.sub_(told), alpha=weight * temperature)
            delta.mul_(grad_N[rows, None])
            delta.masked_fill_((targets == IGNORED)[:, None], 0.0)
            logits_NV[rows] = delta
        return logits_NV, None, None, None, None
