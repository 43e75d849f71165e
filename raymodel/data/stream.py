"""Ray Data streams the rows of each step to training.

Each worker has an ordered stream of its own, whose reading tasks run anywhere in the cluster; what
schedules them runs in the worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.stats import get_or_create_stats_actor
from ray.data._internal.usage.actor import get_or_create_usage_collection_actor
from ray.data._internal.usage.collector import usage_collection_disabled
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.train import DataConfig

from raymodel.cluster.ray_errors import own_errors
from raymodel.data.blocks import STEP, read_blocks, take_step
from raymodel.data.feed import Prefetch, StepRows, chunk_steps
from raymodel.data.order import Order, slice_for
from raymodel.data.plan import BUCKET_READERS, CHUNK_BYTES, MAX_CHUNKS, PAUSE_S
from raymodel.data.run import quiet
from raymodel.data.shard import Dataset
from raymodel.errors import ShardError

if TYPE_CHECKING:
    from ray.data import DataIterator


def start_helpers() -> None:
    """Starts the actors that Ray Data has once in a cluster, on the node of this process.

    Else the first process that streams starts them, on its own node, where they stay for good: that
    of a training worker would never be idle again, and an autoscaler never end it.
    """
    get_or_create_stats_actor()
    if not usage_collection_disabled():
        get_or_create_usage_collection_actor()


class OrderedDataConfig(DataConfig):
    """Gives each training worker its own ordered stream of rows.

    Ray Train calls `configure` at every start of the worker group with the group's new size, so a
    resized run goes on with the same global batches, cut up otherwise.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        start_step_fn: Callable[[], int],
        end_step: int,
        on_bad_shard: str = "stop",
        name: str = "train",
        replica_workers: int = 1,
    ) -> None:
        """Args:
        start_step_fn: where the newest checkpoint stands; picklable, asked at every start.
        end_step: the step after the last.
        name: what the workers call the stream in `ray.train.get_dataset_shard`.
        replica_workers: neighbours in rank that train on the same rows.
        """
        super().__init__()
        self._dataset, self._order, self._on_bad_shard = dataset, order, on_bad_shard
        self._start_step_fn, self._end_step, self._name = start_step_fn, end_step, name
        self._replica_workers = replica_workers

    def configure(
        self,
        datasets: dict[str, Any],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, DataIterator]]:
        start_step, replicas = self._start_step_fn(), world_size // self._replica_workers
        return [
            {
                self._name: self._stream(
                    start_step, rank // self._replica_workers, replicas
                ).iterator()
            }
            for rank in range(world_size)
        ]

    def _stream(self, start_step: int, rank: int, world_size: int) -> ray.data.Dataset:
        steps = range(start_step, max(self._end_step, start_step))
        read = partial(
            read_blocks,
            dataset=self._dataset,
            order=self._order,
            rank=rank,
            world_size=world_size,
            on_bad_shard=self._on_bad_shard,
        )
        piece = chunk_steps(self._dataset, self._order, max(len(steps), 1), world_size)
        source = StepSource(read, steps, piece)
        readers = 1 if self._dataset.is_local else BUCKET_READERS
        stream = quiet(
            ray.data.read_datasource(
                source,
                override_num_blocks=source.num_tasks,
                # Training workers may have claimed every CPU there is, as elastic ones do when
                # the cluster shrinks; a reading task that asked for one would wait for ever.
                num_cpus=0,
                compute=ray.data.TaskPoolStrategy(size=min(readers, source.num_tasks)),
            )
        )
        stream.context.target_max_block_size = CHUNK_BYTES  # long tasks deliver as they read
        stream.context.custom_execution_callback_classes.append(Pace)
        return stream


class StepSource(Datasource):
    """One worker's rows of a run of steps, each reading task a chunk of them."""

    def __init__(
        self,
        read: Callable[[range, int], Iterator[pa.Table]],
        steps: range,
        piece: int,
    ) -> None:
        """Args:
        piece: steps that `read` reads together; a task reads one or more pieces.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._read, self._steps, self._piece = read, steps, piece
        self._task_steps = piece * max(1, -(-len(steps) // (piece * MAX_CHUNKS)))

    @property
    def num_tasks(self) -> int:
        return max(1, -(-len(self._steps) // self._task_steps))

    def get_read_tasks(self, parallelism: int, *args: Any, **options: Any) -> list[ReadTask]:
        chunks = [
            self._steps[first : first + self._task_steps]
            for first in range(0, self.num_tasks * self._task_steps, self._task_steps)
        ]
        # How many bytes a task gives is left to Ray to find out, from the first that ends.
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(self._read, chunk, self._piece), unknown) for chunk in chunks]

    def estimate_inmemory_data_size(self) -> int | None:
        return None


class Pace(ExecutionCallback):
    """Keeps the stream's scheduling from eating the time of the training that it feeds.

    Both live in the worker's process. Whenever training is slower than reading, which is always
    meant to be so, finished blocks wait to be taken, Ray Data's loop finds something ready at once
    and goes round without a pause, and Python's lock goes to and fro between it and training: small
    steps took up to six times as long.
    """

    first_block_came = False
    """Before it there is no training to disturb, and every round brings it nearer."""

    def on_execution_step(self, executor: Any) -> None:
        """Ends each round of the loop."""
        if Pace.first_block_came:
            time.sleep(PAUSE_S)


class RayFeed:
    """A worker's stream of Ray Data, as the rows of each step in order."""

    def __init__(
        self,
        shard: DataIterator,
        order: Order,
        start_step: int,
        end_step: int,
        rank: int,
        world_size: int,
        on_bad_shard: str = "stop",
        prefetch: int = 2,
    ) -> None:
        """Args:
        shard: what `ray.train.get_dataset_shard` gives.
        start_step: the step that the stream begins with (what `start_step_fn` returned).
        end_step: the step after the last.
        prefetch: blocks of steps fetched before they are asked for.
        """
        self._shard, self._prefetch = shard, prefetch
        self._start_step, self._end_step = start_step, end_step
        self._on_bad_shard = on_bad_shard
        self._start, self._stop = slice_for(rank, world_size, order.global_batch)

    def __iter__(self) -> Iterator[StepRows]:
        with Prefetch(self._steps(), self._prefetch) as feed:
            yield from feed

    def _steps(self) -> Iterator[StepRows]:
        next_step, kept = self._start_step, None
        with own_errors():
            for block in self._blocks():
                Pace.first_block_came = True
                # A step may end in the next block; keep its rows until then.
                kept = block if kept is None else pa.concat_tables([kept, block])
                last = int(kept[STEP][-1].as_py())
                steps = kept[STEP].to_numpy()
                while next_step < last:
                    yield self._take(kept, next_step)
                    next_step += 1
                kept = kept.slice(int(np.searchsorted(steps, last)))
        while next_step < self._end_step:
            if kept is None:
                raise ShardError(
                    f"no row of the steps {next_step} … {self._end_step - 1} could be read; at "
                    "least one must be readable. Restore the dataset from a copy, or prepare again"
                )
            yield self._take(kept, next_step)
            next_step += 1

    def _blocks(self) -> Iterator[pa.Table]:
        # None gives whole blocks as the reading tasks made them; its type annotation forgets it.
        whole: Any = None
        blocks: Any = self._shard.iter_batches(
            batch_size=whole, batch_format="pyarrow", prefetch_batches=self._prefetch
        )
        return (block for block in blocks if block.num_rows)

    def _take(self, block: pa.Table, step: int) -> StepRows:
        rows = take_step(block, step, self._stop - self._start)
        assert not rows.skipped or self._on_bad_shard == "skip", f"step {step} lacks rows"
        return rows
