"""Loss on held-out rows while training goes on.

They are cut as training cuts its rows: into steps of the global batch, among the workers, and into
micro batches. So a loss that looks at the whole step is the same at any number of workers here too.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from raymodel.data.columns import columns_of
from raymodel.data.order import slice_for
from raymodel.data.shard import Dataset
from raymodel.train.step.batches import Batch, Collator
from raymodel.train.step.engine import Engine


class Validation:
    """The same held-out rows each time; read once and kept."""

    def __init__(
        self,
        dataset: Dataset,
        num_rows: int,
        global_batch: int,
        engine: Engine,
        collator: Collator,
    ) -> None:
        row_ids = dataset.spread(num_rows)
        layout, self._engine = engine.layout, engine
        self._last_loss: float | None = None
        collator.learn_blank(columns_of(dataset.read(row_ids[:1])))
        spans = []
        for first in range(0, len(row_ids), global_batch):
            rows = min(global_batch, len(row_ids) - first)
            start, stop = slice_for(layout.data_rank, layout.data_world_size, rows)
            spans.append(slice(first + start, first + stop))
        own = columns_of(dataset.read(np.concatenate([row_ids[span] for span in spans])))
        # Every worker does as many forward passes: under ZeRO-3 each one gathers the weights.
        self._batches, begin = list[Batch](), 0
        for span in spans:
            end = begin + span.stop - span.start
            step = {name: column[begin:end] for name, column in own.items()}
            self._batches += collator.batches(step, engine.batch.accumulation)
            begin = end
        targets = sum(engine.task.num_targets(batch) for batch in self._batches)
        self._targets = targets if layout.speaks_for_rows else 0

    def loss(self) -> float:
        """Mean loss per target over all held-out rows; the same on every worker."""
        total = torch.zeros(2, dtype=torch.float64, device=self._engine.device)
        total[1] = self._targets
        for batch in self._batches:
            total[0] += self._engine.forward(batch)
        dist.all_reduce(total)
        loss_sum, targets = total.tolist()
        self._last_loss = float(loss_sum / max(targets, 1.0))
        return self._last_loss

    def last_loss(self) -> float:
        """What was measured last; measured now when a run had nothing left to train."""
        return self.loss() if self._last_loss is None else self._last_loss

    def loss_of_frequencies(self) -> float | None:
        """Mean loss per target of one answer to everything: how often each target is among these
        rows. It is their entropy; a model that reads its input has less.

        None where the loss is another than the cross-entropy of ids or classes. Every worker asks.
        """
        if self._engine.teacher is not None or not self._engine.task.has_scores:
            return None
        labels = [batch["labels"].flatten() for batch in self._batches]
        most = torch.stack([each.max() for each in labels]).max().to(self._engine.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        counts = torch.zeros(max(int(most), 0) + 1, dtype=torch.float64)
        if self._engine.layout.speaks_for_rows:
            for each in labels:
                counts += torch.bincount(each[each >= 0], minlength=len(counts))
        counts = counts.to(self._engine.device)
        dist.all_reduce(counts)
        return float(torch.special.entr(counts / counts.sum().clamp(min=1)).sum())
