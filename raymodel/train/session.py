"""What the training loop knows about the place it runs in.

The loop is the same under Ray Train and under plain `torchrun`; a session is the difference.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Protocol

from raymodel.data.feed import DirectFeed, Feed
from raymodel.data.order import Order
from raymodel.data.shard import Dataset
from raymodel.train.fault.notice import watch_sigterm
from raymodel.train.layout import Layout


class Session(Protocol):
    """One worker's view of the group that it trains in."""

    world_rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: str
    """Of the cluster; ranks on one node are neighbours."""

    def feed(
        self,
        dataset: Dataset,
        order: Order,
        start_step: int,
        end_step: int,
        on_bad_shard: str,
        layout: Layout,
    ) -> Feed:
        """Begins to read this worker's rows from `start_step` (0-based) to before `end_step`.

        Workers of one replica read the same rows, each for itself: that is cheap beside what they
        compute, and keeps one waiting worker from stopping the others.
        """
        ...

    def report(self, record: dict[str, float]) -> None:
        """Called by every rank with each validation record."""
        ...

    def leave_by(self) -> float | None:
        """Unix time by which this worker will be taken away, or None. Called by every rank."""
        ...


class TorchrunSession:
    """A session from the environment variables that `torchrun` sets."""

    def __init__(self) -> None:
        self.world_rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world_size)))
        self.node = socket.gethostname()
        self.on_report: Callable[[dict[str, float]], None] | None = None

    def feed(
        self,
        dataset: Dataset,
        order: Order,
        start_step: int,
        end_step: int,
        on_bad_shard: str,
        layout: Layout,
    ) -> Feed:
        # `torchrun` passes the signal on to its workers. Before training there is nothing to save,
        # and a worker that waits for one which refused the job ends at once.
        watch_sigterm()
        return DirectFeed(
            dataset,
            order,
            start_step,
            end_step,
            layout.data_rank,
            layout.data_world_size,
            on_bad_shard=on_bad_shard,
        )

    def report(self, record: dict[str, float]) -> None:
        if self.on_report:
            self.on_report(record)

    def leave_by(self) -> float | None:
        return None
