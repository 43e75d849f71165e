"""The loss of a set of objects, as DETR takes it (arXiv:2005.12872), added up over images.

Each true object is matched with one query, so that the matching costs least; the other queries are
to say that nothing is there. DETR divides the cross-entropy by the weights of all queries of the
batch and the rest by all its objects, so that the loss of an image would depend on what comes with
it. Here the cross-entropy is the weighted mean over the queries of an image, times its objects (of
which an image without any counts one: nothing), and everything is divided by the objects of the
step. Of images with equally many objects both are the same.

Shapes: B images, Q queries, C classes, N objects of the fullest image, n of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from raymodel.tasks.loss import IGNORED


class Weights(NamedTuple):
    """Of the parts of the matching's cost and of the loss, as a configuration has them."""

    class_cost: float
    bbox_cost: float
    giou_cost: float
    bbox_loss_coefficient: float
    giou_loss_coefficient: float
    eos_coefficient: float

    @classmethod
    def of(cls, config: Any) -> Weights:
        return cls(*(float(getattr(config, name)) for name in cls._fields))


def set_loss(
    logits_BQC: torch.Tensor,
    boxes_BQ4: torch.Tensor,
    batch: Mapping[str, torch.Tensor],
    weights: Weights,
) -> torch.Tensor:
    """Sum over the images, a scalar in fp32.

    Args:
        logits_BQC: of the classes, and last of nothing. (B, Q, C + 1)
        boxes_BQ4: x and y of the middle, width and height, as shares of the image.
        batch: `labels` (B, N), `IGNORED` beyond an image's objects, and of an image without any one
            label, C; `boxes` (B, N, 4), as of the model.
        weights: of the parts.
    """
    logits_BQC, boxes_BQ4 = logits_BQC.float(), boxes_BQ4.float()
    nothing = logits_BQC.shape[-1] - 1
    targets_BQ = torch.full(logits_BQC.shape[:2], nothing, device=logits_BQC.device)
    counts_B = (batch["labels"] != IGNORED).sum(1).to(logits_BQC.device)
    total = boxes_BQ4.sum() * 0  # a batch without objects goes through the whole model too
    for image, labels in enumerate(batch["labels"]):
        is_object = (labels != IGNORED) & (labels != nothing)
        true, true_boxes = labels[is_object], batch["boxes"][image][is_object].float()
        if not len(true):
            continue
        queries, objects = match(logits_BQC[image], boxes_BQ4[image], true, true_boxes, weights)
        targets_BQ[image, queries] = true[objects]
        found, wanted = boxes_BQ4[image, queries], true_boxes[objects]
        overlaps = generalised_iou(corners(found), corners(wanted)).diagonal()
        total = total + weights.bbox_loss_coefficient * (found - wanted).abs().sum()
        total = total + weights.giou_loss_coefficient * (1 - overlaps).sum()
    losses_BQ = F.cross_entropy(logits_BQC.transpose(1, 2), targets_BQ, reduction="none")
    weight_BQ = torch.where(targets_BQ == nothing, weights.eos_coefficient, 1.0)
    means_B = (losses_BQ * weight_BQ).sum(1) / weight_BQ.sum(1)
    return total + (means_B * counts_B).sum()


@torch.no_grad()
def match(
    logits_QC: torch.Tensor,
    boxes_Q4: torch.Tensor,
    labels_n: torch.Tensor,
    true_n4: torch.Tensor,
    weights: Weights,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and the objects that they are matched with, as many of both."""
    from scipy.optimize import linear_sum_assignment

    cost_Qn = -weights.class_cost * logits_QC.softmax(-1)[:, labels_n]
    cost_Qn += weights.bbox_cost * (boxes_Q4[:, None] - true_n4).abs().sum(-1)
    cost_Qn -= weights.giou_cost * generalised_iou(corners(boxes_Q4), corners(true_n4))
    # A loss that is not finite is told by those who look at losses.
    rows, columns = linear_sum_assignment(cost_Qn.nan_to_num(nan=1e6).cpu().numpy())
    return (
        torch.from_numpy(rows).to(labels_n.device),
        torch.from_numpy(columns).to(labels_n.device),
    )


def corners(boxes_n4: torch.Tensor) -> torch.Tensor:
    """Left, top, right, bottom of boxes by their middle and their size."""
    middle, size = boxes_n4[..., :2], boxes_n4[..., 2:]
    return torch.cat([middle - size / 2, middle + size / 2], dim=-1)


def generalised_iou(left_m4: torch.Tensor, right_n4: torch.Tensor) -> torch.Tensor:
    """Of each pair of boxes, by their corners: from -1 to 1 (arXiv:1902.09630). (m, n)"""
    a, b = left_m4[:, None], right_n4[None]
    shared = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    around = torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])
    both, hull = shared.prod(-1), around.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both
    return both / union - (hull - union) / hull
