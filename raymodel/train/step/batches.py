"""From a worker's rows of one step to its micro batches, and what all workers agree on.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from raymodel.chance import Draw
from raymodel.data.columns import columns_of
from raymodel.data.feed import Feed, Prefetch, StepRows
from raymodel.data.order import local_sum
from raymodel.data.rows import row_tokens
from raymodel.tasks.base import Task
from raymodel.train.layout import Layout
from raymodel.train.plan import cut

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class StepBatch:
    """A worker's share of one global batch."""

    micro_batches: list[Batch]
    """As many on every worker; a worker with too few rows gets blank ones, which bear no loss."""
    targets: int
    tokens: int
    positions: int
    """Tokens that the model computes: padding, and all of blank micro batches, included."""
    rows: int
    bad_rows: int
    digest_term: int


class Collator:
    """Makes micro batches through the task."""

    def __init__(self, task: Task, accumulation: int, seed: int) -> None:
        """Args:
        accumulation: micro batches of a step.
        seed: of the run, from which every random choice in a batch follows.
        """
        self._task, self._accumulation, self._seed = task, accumulation, seed
        self._blank: Batch | None = None

    def step_batch(self, rows: StepRows) -> StepBatch:
        """The micro batches of one step."""
        columns = columns_of(rows.table) if rows.table.num_rows else {}
        draw = Draw(self._seed, rows.step, rows.positions)
        micro_batches = [
            self._collate(columns, start, stop, draw.part(start, stop))
            for start, stop in cut(rows.table.num_rows, self._accumulation)
        ]
        return StepBatch(
            micro_batches=micro_batches,
            targets=sum(self._task.num_targets(batch) for batch in micro_batches),
            tokens=int(row_tokens(rows.table).sum()),
            positions=sum(self._task.num_positions(batch) for batch in micro_batches),
            rows=rows.table.num_rows,
            bad_rows=rows.skipped,
            digest_term=local_sum(rows.positions, rows.row_ids),
        )

    def batches(self, columns: Mapping[str, Any], pieces: int) -> list[Batch]:
        """All rows in this many batches, without chance; those without a row are blank."""
        num_rows = len(next(iter(columns.values())))
        return [self._collate(columns, *bounds) for bounds in cut(num_rows, pieces)]

    def learn_blank(self, columns: Mapping[str, Any]) -> None:
        """Takes the form of a blank micro batch from the first of these rows.

        Needed where a worker may get none at all: more workers than held-out rows, or a first step
        whose rows are all in a corrupt shard.
        """
        self._collate(columns, 0, 1)

    def _collate(
        self, columns: Mapping[str, Any], start: int, stop: int, draw: Draw | None = None
    ) -> Batch:
        if start == stop:
            return self._blank_batch()
        if self._blank is None:
            first = {name: column[start : start + 1] for name, column in columns.items()}
            row = self._task.collate(first)
            no_target = torch.full_like(row["labels"], self._task.no_target)
            self._blank = row | {"labels": no_target}
        piece = {name: column[start:stop] for name, column in columns.items()}
        return self._task.collate(piece, draw)

    def _blank_batch(self) -> Batch:
        """One row without targets: keeps the workers' collectives in step."""
        assert self._blank is not None, "a worker without rows has learnt no blank batch"
        return self._blank


def collated(feed: Feed, collator: Collator) -> Iterator[tuple[StepRows, StepBatch]]:
    """The rows of each step and their batch, which is made in a thread while training computes:
    decoding images and augmenting them takes as long as a small model's step."""
    with Prefetch(((rows, collator.step_batch(rows)) for rows in feed), ahead=1) as steps:
        yield from steps


_COUNTED = ("targets", "tokens", "positions", "rows", "bad_rows", "digest_term")
_AGREED = (*_COUNTED, "seen", "leave", "ask")


@dataclass(frozen=True)
class GlobalStep:
    """What all workers agree on for one step."""

    targets: torch.Tensor
    """Scalar on the device: what the loss is divided by."""
    _sums: torch.Tensor
    _replica_workers: int

    def read(self) -> dict[str, int]:
        """The sums on the host. On a GPU this waits for the work queued so far."""
        sums = dict(zip(_AGREED, self._sums.tolist(), strict=True))
        seen = sums.pop("seen") - sums["digest_term"] * self._replica_workers
        assert seen % 2**64 == 0, "workers of one replica were fed different rows"
        return sums

    def mean(self, loss_sum: torch.Tensor) -> float:
        """The loss per target of the global batch.

        Args:
            loss_sum: over this worker's targets, a scalar on the device.
        """
        total = loss_sum.detach().double()
        dist.all_reduce(total)
        return float(total / self.targets.double())


def agree(
    batch: StepBatch, layout: Layout, leave: bool, device: torch.device, *, ask: bool = False
) -> GlobalStep:
    """One all-reduce a step: targets for the loss, the digest's sum, and whether any rank leaves.

    Integers, so that the digest wraps at 2^64 as it must, and the targets stay exact. Of workers
    that have the same rows one counts them.

    Args:
        batch: this worker's share.
        layout: this worker's place.
        leave: whether this worker must leave.
        device: of the process group.
        ask: whether all should ask the cluster, after this step, if a node goes.
    """
    counts = [getattr(batch, name) for name in _COUNTED]
    if not layout.speaks_for_rows:
        counts = [0] * len(counts)
    numbers = [*counts, batch.digest_term, int(leave), int(ask)]
    sums = torch.tensor(numbers, dtype=torch.int64, device=device)
    dist.all_reduce(sums)
    return GlobalStep(sums[0].clamp(min=1).float(), sums, layout.replica_workers)


def first_text(text: str) -> str:
    """The text of the lowest rank that has one; every rank calls this."""
    texts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(texts, text)
    return next((each for each in texts if each), "")
