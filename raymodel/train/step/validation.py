"""Loss on held-out rows while training goes on."""

from __future__ import annotations

import torch
import torch.distributed as dist

from raymodel.data.columns import columns_of
from raymodel.data.order import slice_for
from raymodel.data.shard import Dataset
from raymodel.train.step.batches import Collator
from raymodel.train.step.engine import Engine


class Validation:
    """The same held-out rows each time, cut among the workers; read once and kept."""

    def __init__(
        self,
        dataset: Dataset,
        num_rows: int,
        engine: Engine,
        collator: Collator,
    ) -> None:
        row_ids = dataset.spread(num_rows)
        total, layout = len(row_ids), engine.layout
        start, stop = slice_for(layout.data_rank, layout.data_world_size, total)
        worker_rows = -(-total // layout.data_world_size)
        rounds = -(-worker_rows // engine.batch.micro_batch)
        self._engine = engine
        self._last_loss: float | None = None
        collator.learn_blank(columns_of(dataset.read(row_ids[:1])))
        # Every worker does as many forward passes: under ZeRO-3 each one gathers the weights.
        self._batches = collator.batches(columns_of(dataset.read(row_ids[start:stop])), rounds)
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
