"""Rows of training that a method looks at, and what a model does with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raymodel.data.columns import columns_of
from raymodel.data.shard import Dataset
from raymodel.model.attention import documents_apart

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The first rows of training, in its order. Picklable."""

    dataset: Dataset
    """Its split of rows that are trained on: those that are held out measure the result."""
    seed: int
    """Of the job: it decides the order."""
    max_rows: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """The columns of one row at a time, so that what is seen depends on no batch."""
        order = self.dataset.order(self.seed, 1)
        for step in range(min(self.max_rows, self.dataset.num_rows)):
            yield columns_of(self.dataset.read(order.rows(step)))


def batch_of(model: PreTrainedModel, task: Task, row: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What the model is given of a row."""
    return {name: value.to(model.device) for name, value in task.collate(row).items()}


def mean_loss(
    model: PreTrainedModel, task: Task, batch: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The mean loss of the targets of a row, a scalar in fp32; 0 where it has none."""
    with documents_apart(model) if task.keeps_apart else nullcontext():
        return task.loss(model, batch) / max(task.num_targets(batch), 1)


@torch.no_grad()
def mean_squares(
    model: PreTrainedModel, task: Task, calibration: Calibration
) -> dict[str, torch.Tensor]:
    """Name of the weight of each linear layer → the mean square of each of its inputs, by which
    its columns count. (I,) fp32

    Layers that no row reached are left out.

    Args:
        task: of models that write.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    is_token = torch.empty(0, dtype=torch.bool)

    def look(name: str, values: torch.Tensor) -> None:
        flat = values.detach().float().flatten(0, -2)
        if len(flat) == len(is_token):  # and not only the places of targets, as before the head
            flat = flat[is_token]
        sums[name] = sums.get(name, 0) + flat.square().sum(0)
        counts[name] = counts.get(name, 0) + len(flat)

    def hook(name: str) -> Any:
        return lambda module, inputs: look(f"{name}.weight", inputs[0])

    hooks = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for row in calibration.rows():
            batch = batch_of(model, task, row)
            is_token = batch["input_ids"].flatten() != task.processor.padding
            mean_loss(model, task, batch)
    finally:
        for each in hooks:
            each.remove()
    return {name: total / max(counts[name], 1) for name, total in sums.items()}
