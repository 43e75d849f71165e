"""Ray Data streams the rows of each step to training.

Each worker has an ordered stream of its own, whose reading tasks run on its node; what schedules
them runs in the worker. It does not come through Ray Train's `datasets`: those are made
by one more process at each start of the group, where the worker can make its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray._raylet import RAY_NODE_ID_KEY  # type: ignore[attr-defined]  # compiled
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.stats import get_or_create_stats_actor
from ray.data._internal.usage.actor import get_or_create_usage_collection_actor
from ray.data._internal.usage.collector import usage_collection_disabled
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raymodel.cluster.ray_errors import own_errors
from raymodel.data.blocks import STEP, read_blocks, take_step
from raymodel.data.feed import Prefetch, StepRows, chunk_steps
from raymodel.data.order import Order, slice_for
from raymodel.data.plan import (
    BUCKET_READERS,
    CHUNK_BYTES,
    MAX_TASKS,
    MIN_TASK_CHUNKS,
    PAUSE_S,
    READ_AHEAD_BYTES,
    REST_S,
)
from raymodel.data.run import quiet
from raymodel.data.shard import Dataset
from raymodel.errors import ShardError


def start_helpers() -> None:
    """Starts the actors that Ray Data has once in a cluster, on the node of this process.

    Else the first process that streams starts them, on its own node, where they stay for good: that
    of a training worker would never be idle again, and an autoscaler never end it.
    """
    get_or_create_stats_actor()
    if not usage_collection_disabled():
        get_or_create_usage_collection_actor()


def _start_no_helper_here() -> None:
    """What `start_helpers` left out stays out.

    `ray start --disable-usage-stats` counts on the head alone: the processes of other nodes still
    think that usage is collected, and the first that streamed would start the actor on its node.
    """
    try:
        ray.get_actor("DataUsageCollectionActor", namespace="DataUsageCollectionActor")
    except ValueError:
        os.environ["RAY_DATA_USAGE_DISABLED"] = "1"


def start_readers(nodes: Iterable[str], variables: Mapping[str, str]) -> None:
    """Starts a process on each of these nodes that will run reading tasks, some 3 s of CPU.

    For the time in which the workers start, one process after the other. Where a guess was wrong,
    Ray ends the process after a while.

    Args:
        nodes: ids of Ray's, one for each worker that may start there.
        variables: the workers' environment variables; Ray keeps processes apart by them.
    """
    context = ray.data.DataContext.get_current()
    for node in nodes:
        options = {**_on(node), "runtime_env": {"env_vars": dict(variables)}}
        _be_ready.options(**options).remote(context)


@ray.remote(num_cpus=0)
def _be_ready(context: ray.data.DataContext) -> None:
    """What a reading task is given too: to have it here, all that reading needs was imported."""


def _on(node: str) -> dict[str, Any]:
    """Ray's options for tasks that run on this node, or elsewhere when it is about to leave."""
    return {
        "label_selector": {RAY_NODE_ID_KEY: node},
        "fallback_strategy": [{"label_selector": {}}],
    }


def open_stream(
    dataset: Dataset,
    order: Order,
    steps: range,
    rank: int,
    world_size: int,
    on_bad_shard: str = "stop",
) -> ray.data.Dataset:
    """One worker's rows of these steps, in order. Reading begins when it is iterated over."""
    _start_no_helper_here()
    read = partial(
        read_blocks,
        dataset=dataset,
        order=order,
        rank=rank,
        world_size=world_size,
        on_bad_shard=on_bad_shard,
    )
    chunk = chunk_steps(dataset, order, max(len(steps), 1), world_size)
    source = StepSource(read, steps, chunk)
    readers = 1 if dataset.is_local else BUCKET_READERS
    stream = quiet(
        ray.data.read_datasource(
            source,
            override_num_blocks=source.num_tasks,
            # Training workers may have claimed every CPU there is, as elastic ones do when
            # the cluster shrinks; a reading task that asked for one would wait for ever.
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=min(readers, source.num_tasks)),
            # Spread, as they are by default, the tasks of all workers would go from node to node
            # in step: each node takes turns for its own workers, and all begin with the same one.
            **_on(ray.get_runtime_context().get_node_id()),
        )
    )
    stream.context.target_max_block_size = CHUNK_BYTES  # long tasks deliver as they read
    options = stream.context.execution_options
    waiting_bytes = readers * READ_AHEAD_BYTES
    options.resource_limits = options.resource_limits.copy(object_store_memory=waiting_bytes)
    stream.context.custom_execution_callback_classes.append(Pace)
    return stream


class StepSource(Datasource):
    """One worker's rows of a run of steps, each reading task a few chunks of them."""

    def __init__(
        self,
        read: Callable[[range, int], Iterator[pa.Table]],
        steps: range,
        chunk: int,
    ) -> None:
        """Args:
        chunk: steps that `read` reads together.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._read, self._steps, self._chunk = read, steps, chunk
        self._task_steps = chunk * max(MIN_TASK_CHUNKS, -(-len(steps) // (chunk * MAX_TASKS)))

    @property
    def num_tasks(self) -> int:
        return max(1, -(-len(self._steps) // self._task_steps))

    def get_read_tasks(self, parallelism: int, *args: Any, **options: Any) -> list[ReadTask]:
        parts = [
            self._steps[first : first + self._task_steps]
            for first in range(0, self.num_tasks * self._task_steps, self._task_steps)
        ]
        # How many bytes a task gives is left to Ray to find out, from the first that ends.
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(self._read, part, self._chunk), unknown) for part in parts]

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
    is_waited_for = threading.Event()
    """Whether the next block is asked for now; not while enough lie ready."""

    def on_execution_step(self, executor: Any) -> None:
        """Ends each round of the loop."""
        if Pace.first_block_came:
            time.sleep(PAUSE_S)
            Pace.is_waited_for.wait(REST_S - PAUSE_S)


class RayFeed:
    """One worker's rows of a run of steps, which tasks of Ray Data read, ahead of their use.

    Reading begins when it is made. Each worker of Ray Train makes its own, at every start of the
    group: a resized run goes on with the same global batches, cut up otherwise.
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
        prefetch: blocks of steps fetched before they are asked for.
        """
        self._steps = range(start_step, max(end_step, start_step))
        self._on_bad_shard = on_bad_shard
        start, stop = slice_for(rank, world_size, order.global_batch)
        self._num_rows = stop - start
        stream = open_stream(dataset, order, self._steps, rank, world_size, on_bad_shard)
        self._blocks = Prefetch(_blocks(stream), prefetch)

    def __iter__(self) -> Iterator[StepRows]:
        next_step, kept = self._steps.start, None
        with self._blocks as blocks:
            for block in blocks:
                kept = block if kept is None else pa.concat_tables([kept, block])
                complete = self._stop_of_complete(kept)
                while next_step < complete:
                    yield self._take(kept, next_step)
                    next_step += 1
                first_kept = np.searchsorted(kept[STEP].to_numpy(), complete)
                kept = kept.slice(int(first_kept))
            while next_step < self._steps.stop:
                if kept is None:
                    raise ShardError(
                        f"no row of the steps {next_step} … {self._steps.stop - 1} could be read; "
                        "at least one must be readable. Restore the dataset from a copy, or "
                        "prepare again"
                    )
                yield self._take(kept, next_step)
                next_step += 1

    def close(self) -> None:
        """Ends the reading."""
        self._blocks.close()

    def _stop_of_complete(self, block: pa.Table) -> int:
        """The step after the last that has all its rows here.

        The last one of a block may end in the next. Where rows were skipped, only the block after
        shows that none follows.
        """
        steps = block[STEP].to_numpy()
        last = int(steps[-1])
        is_whole = len(steps) - np.searchsorted(steps, last) == self._num_rows
        return last + bool(is_whole)

    def _take(self, block: pa.Table, step: int) -> StepRows:
        rows = take_step(block, step, self._num_rows)
        assert not rows.skipped or self._on_bad_shard == "skip", f"step {step} lacks rows"
        return rows


def _blocks(stream: ray.data.Dataset) -> Iterator[pa.Table]:
    # None gives whole blocks as the reading tasks made them; its type annotation forgets it.
    whole: Any = None
    batches: Any = stream.iter_batches(batch_size=whole, batch_format="pyarrow", prefetch_batches=0)
    with own_errors():
        Pace.is_waited_for.set()
        for block in batches:
            if block.num_rows:
                Pace.first_block_came = True
                Pace.is_waited_for.clear()
                yield block
                Pace.is_waited_for.set()
