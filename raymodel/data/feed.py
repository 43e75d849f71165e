"""From the order to the rows of each step, for one worker, in one process.

Under Ray the same reading is done by tasks of Ray Data (`data/stream.py`); under plain `torchrun`
`DirectFeed` does it in a thread. Both call `read_steps`, so both deliver the same rows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from raymodel.chance import PARTNER
from raymodel.data.order import Order, slice_for
from raymodel.data.permutation import Indices
from raymodel.data.plan import plan_chunk_steps
from raymodel.data.shard import Dataset

T = TypeVar("T")

CLOSE_S = 5.0
"""For what a feed is reading when it is closed; a chunk takes milliseconds."""


@dataclass(frozen=True)
class StepRows:
    """One worker's rows of one step."""

    step: int
    """Counted from 0: the steps that are complete before this one."""
    positions: Indices
    """Their places in the global batch. (n,)"""
    row_ids: Indices
    """Their ids in the dataset. (n,)"""
    table: pa.Table
    """The rows themselves, and where the order has partners, the columns of those beside their own,
    each name with `PARTNER` before it. (n rows)"""
    skipped: int = 0
    """Rows left out because their block is corrupt; only with `on_bad_shard: skip`."""


class Feed(Protocol):
    """One worker's rows of a run of steps, in order; can be iterated over once."""

    def __iter__(self) -> Iterator[StepRows]: ...

    def close(self) -> None:
        """Ends the reading, also where nobody iterated."""
        ...


def read_steps(
    dataset: Dataset,
    order: Order,
    steps: Sequence[int],
    rank: int,
    world_size: int,
    on_bad_shard: str = "stop",
) -> Iterator[StepRows]:
    """The rows of these steps for one worker. All are read at once: give a chunk of steps.

    Raises:
        ShardError: a shard is missing or corrupt, and `on_bad_shard` is `stop`.
    """
    assert on_bad_shard in ("stop", "skip"), on_bad_shard
    start, stop = slice_for(rank, world_size, order.global_batch)
    row_ids = np.concatenate([order.rows(step)[start:stop] for step in steps])
    asked = row_ids
    if order.with_partners:
        partners = [order.partners(step)[start:stop] for step in steps]
        asked = np.concatenate([row_ids, *partners])
    if on_bad_shard == "skip":
        table, available = dataset.read_available(asked)
    else:
        table, available = dataset.read(asked), np.ones(len(asked), dtype=bool)
    if order.with_partners:
        table, available = _beside_partners(table, available)
    count, first = stop - start, 0
    for index, step in enumerate(steps):
        good = available[index * count : (index + 1) * count]
        kept = int(good.sum())
        yield StepRows(
            step=step,
            positions=np.arange(start, stop, dtype=np.int64)[good],
            row_ids=row_ids[index * count : (index + 1) * count][good],
            table=table.slice(first, kept),
            skipped=count - kept,
        )
        first += kept


def _beside_partners(table: pa.Table, available: Any) -> tuple[pa.Table, Any]:
    """Each row with its partner's columns; a partner that cannot be read leaves a row its own.

    Args:
        table: the rows that could be read, and after them the partners.
        available: which of both were. (2n,) bool

    Returns: the rows, and which could be read. (n,) bool
    """
    own, partner = np.split(available, 2)
    place, partner_place = np.split(np.cumsum(available) - 1, 2)
    beside = table.take(pa.array(np.where(partner, partner_place, place)[own]))
    rows = table.slice(0, int(own.sum()))
    for name in beside.column_names:
        rows = rows.append_column(PARTNER + name, beside[name])
    return rows, own


def chunk_steps(dataset: Dataset, order: Order, num_steps: int, world_size: int) -> int:
    """Steps that are read together."""
    worker_rows = -(-order.global_batch // world_size) * (1 + order.with_partners)
    return plan_chunk_steps(worker_rows, dataset.row_bytes, num_steps)


class Prefetch(Generic[T]):
    """Iterates over `source` in a thread, at most `ahead` items ahead of the reader.

    An error of the source is raised where the reader asks for the next item. Close it, or leave
    its `with` block, to end the thread.
    """

    def __init__(self, source: Iterator[T], ahead: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(1, ahead))
        self._closed = threading.Event()
        self._source = source
        self._thread = threading.Thread(target=self._fill, name="data-feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread; items that were not taken are dropped.

        A source that gives nothing, as where no node is left to read on, is left behind: it ends
        with the process, which must not wait for it when it has a notice to leave.
        """
        self._closed.set()
        deadline = time.monotonic() + CLOSE_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _fill(self) -> None:
        end: BaseException | None = None
        try:
            for item in self._source:
                self._put(item)
                if self._closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            end = error
        self._put(end)

    def _put(self, item: object) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue


class DirectFeed:
    """Reads one worker's rows of a run of steps in this process, ahead of their use.

    Reading begins when it is made.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        start_step: int,
        end_step: int,
        rank: int,
        world_size: int,
        on_bad_shard: str = "stop",
        prefetch: int = 2,
    ) -> None:
        """Args:
        start_step: the first step read, counted from 0.
        end_step: the step after the last.
        prefetch: steps that are ready before they are asked for; chunks of steps are read
            together besides.
        """
        self._dataset, self._order = dataset, order
        self._start_step, self._end_step = start_step, end_step
        self._rank, self._world_size = rank, world_size
        self._on_bad_shard = on_bad_shard
        self._ahead = Prefetch(self._read(), prefetch)

    def __iter__(self) -> Iterator[StepRows]:
        with self._ahead as steps:
            yield from steps

    def close(self) -> None:
        """Ends the reading."""
        self._ahead.close()

    def _read(self) -> Iterator[StepRows]:
        num_steps = self._end_step - self._start_step
        chunk = chunk_steps(self._dataset, self._order, max(num_steps, 1), self._world_size)
        for first in range(self._start_step, self._end_step, chunk):
            steps = range(first, min(first + chunk, self._end_step))
            yield from read_steps(
                self._dataset, self._order, steps, self._rank, self._world_size, self._on_bad_shard
            )
