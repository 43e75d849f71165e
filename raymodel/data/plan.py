"""Counts of the data path: partitions of the sources, rows of a block, rows of a shard.

Everything here is a function of the data alone, never of the number of workers or CPUs, so that
the bytes of the shards do not depend on where they were made.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_PARTITION_BYTES = 2 * 2**20
"""Enough work (about a second) to outweigh starting a task."""
MAX_PARTITION_BYTES = 256 * 2**20
"""Keeps one task's text, tokens and Arrow copies within about 2 GiB."""
TARGET_PARTITIONS = 1024
"""Between the two limits a source is cut into about this many partitions."""

BLOCK_BYTES = 256 * 2**10
"""One range read. Smaller blocks mix better for the same memory, but object stores take tens of
milliseconds to the first byte of each, whatever its size."""
SHARD_BYTES = 64 * 2**20
"""One file. Large enough that 10 TB are some 10^5 files, small enough to check and copy whole."""
MIN_BLOCKS = 16
"""A small corpus still has this many blocks: a bad block then costs a sixteenth, not everything."""

WINDOW_BLOCKS = 256
"""Blocks that are mixed row by row at a time (64 MiB of rows); see `data/order.py`."""

CHUNK_BYTES = 2 * 2**20
"""Rows of one worker that are read together: the fixed cost of a task, a few milliseconds, is
small beside it."""
MAX_TASKS = 512
"""Reading tasks of one worker's run; each is planned up front, so longer runs have longer tasks."""
MIN_TASK_CHUNKS = 8
"""Chunks of a reading task at the least: Ray may start a process for each, at some 3 s of CPU."""

BUCKET_READERS = 2
"""Reading tasks of one worker at a time, of data in a bucket. They claim no CPU, so this is what
holds them back; one alone reads more than a worker consumes, the other hides how long the storage
takes. On a disk there is nothing to hide, and one is enough: each is a process that must start, at
some 3 s of CPU, before the first batch."""

READ_AHEAD_BYTES = MIN_TASK_CHUNKS * CHUNK_BYTES
"""Rows that each reading task at a time may add to those that wait to be asked for: minutes of a
large model's training, for which a storage may fail. Without a limit reading would take the CPUs of
the training beside it until the object store is full, and every restart throws away what waits."""

PAUSE_S = 0.05
"""Pause of a stream's scheduling after each round, in which it may hand over several chunks: 40
MiB/s at the least, some ten million tokens, where a worker trains on thousands to a million."""
REST_S = 2.0
"""The same while nobody waits for a chunk: a round is two milliseconds of training's time."""

READ_BY_BASE_ROWS = 256
"""Examples that one task has the base read: some seconds of a GPU, and what a crash costs."""
READ_BY_BASE_TOKENS = 8192
"""Of one forward pass of the base, padding included, unless a single example has more: enough to
fill a GPU, and of a vocabulary of 150,000 some 2 GiB of logits."""

TRANSLATED_ROWS = 64
"""Examples whose texts one task has translated: some minutes of a small server, and what a crash
costs."""

BUCKET_KEYS = 4_000_000
"""Document keys that one deduplication task holds in memory, 32 bytes each."""


@dataclass(frozen=True)
class ShardPlan:
    """How the rows of one part are laid out in files. The last shard and block are shorter."""

    rows: int
    rows_per_block: int
    rows_per_shard: int

    @property
    def num_shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def shard_rows(self, shard_index: int) -> tuple[int, int]:
        """First row of a shard, and the row after its last."""
        start = shard_index * self.rows_per_shard
        return start, min(start + self.rows_per_shard, self.rows)


def plan_shards(rows: int, row_bytes: float) -> ShardPlan:
    """Rows per block and shard for `rows` rows of `row_bytes` bytes each on average."""
    assert rows > 0, "a part without rows has no shards"
    by_size = max(1, int(BLOCK_BYTES / max(row_bytes, 1.0)))
    rows_per_block = max(1, min(by_size, -(-rows // MIN_BLOCKS)))
    blocks_per_shard = max(1, int(SHARD_BYTES / (rows_per_block * max(row_bytes, 1.0))))
    return ShardPlan(rows, rows_per_block, rows_per_block * blocks_per_shard)


def plan_partition_bytes(total_bytes: int) -> int:
    """Bytes of source that one task reads."""
    wanted = -(-total_bytes // TARGET_PARTITIONS)
    return max(MIN_PARTITION_BYTES, min(MAX_PARTITION_BYTES, wanted))


def plan_buckets(total_keys: int) -> int:
    """Tasks among which the document keys are shared out to find duplicates."""
    return max(1, -(-total_keys // BUCKET_KEYS))


def plan_chunk_steps(worker_rows: int, row_bytes: float, total_steps: int) -> int:
    """Steps of one worker that are read together.

    By size, but at most a 32nd of the run, so that the first batch comes soon.
    """
    by_size = int(CHUNK_BYTES / max(worker_rows * row_bytes, 1.0))
    return max(1, min(by_size, total_steps // 32, 1024))
