"""What a step from raw records to shards is: a list of items that can be done anywhere.

An item writes its files below the work folder and then its summary, `<step>/0000042.json`; what
has a summary is done, and an interrupted step goes on with what has none. Nothing depends on how
many items run at a time, so the bytes of the shards do not either.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.record import FileSlice
from raymodel.storage.uri import Location

SPLITS = ("train", "holdout", "test")
"""`holdout` is what training is validated on, and what is evaluated where there is no `test`."""
_GROUP_ROWS = 4096  # rows of an intermediate file that are read together


class SourceSize(NamedTuple):
    """A piece of the sources, for people who wait."""

    files: int = 0
    """Those that begin in it."""
    bytes: int = 0


class Step(Protocol):
    """A list of independent items. Picklable."""

    @property
    def name(self) -> str: ...

    @property
    def work(self) -> Location: ...

    @property
    def num_items(self) -> int: ...

    @property
    def loads_model(self) -> bool:
        """Whether an item needs a model in memory, which lasts for all items of a process."""
        ...

    @property
    def max_tasks(self) -> int | None:
        """Tasks at a time, where more of them would be too much for a server that all ask; None
        where the cluster alone decides."""
        ...

    def source_size(self, item: int) -> SourceSize:
        """How much of the sources an item stands for; nothing where that is not known."""
        ...

    def run(self, item: int) -> dict[str, Any]:
        """Does one item and returns its summary; doing it again gives the same."""
        ...


def complete_item(step: Step, item: int) -> None:
    """Does an item and marks it done."""
    summary = step.run(item)
    item_file(step.work, step.name, item, "json").write_json(summary)


def missing_items(step: Step) -> list[int]:
    """The items that are not done yet."""
    done = {entry.name for entry in (step.work / step.name).list()}
    return [item for item in range(step.num_items) if f"{item:07d}.json" not in done]


@dataclass(frozen=True)
class Partition:
    """What one task reads of one source."""

    source_index: int
    pieces: tuple[FileSlice, ...]

    @property
    def size(self) -> SourceSize:
        return SourceSize(
            files=sum(piece.start == 0 for piece in self.pieces),
            bytes=sum(piece.end - piece.start for piece in self.pieces),
        )


@dataclass(frozen=True, kw_only=True)
class OfPartitions:
    """What steps share whose items are pieces of the sources."""

    partitions: tuple[Partition, ...]

    @property
    def num_items(self) -> int:
        return len(self.partitions)

    @property
    def max_tasks(self) -> int | None:
        return None

    def source_size(self, item: int) -> SourceSize:
        return self.partitions[item].size


@dataclass(frozen=True, kw_only=True)
class OfResults:
    """What steps share whose items are made of what earlier steps left: they stand for nothing of
    the sources."""

    @property
    def max_tasks(self) -> int | None:
        return None

    def source_size(self, item: int) -> SourceSize:
        return SourceSize()


@dataclass(frozen=True, kw_only=True)
class OfBuckets(OfResults):
    """What steps share that bring together what all partitions have of one bucket."""

    num_buckets: int
    num_partitions: int

    @property
    def num_items(self) -> int:
        return self.num_buckets


# ---- what items leave ----------------------------------------------------------------------------


def rows_file(work: Location, split: str, item: int) -> Location:
    """The rows that one partition gives to one split."""
    return item_file(work, f"rows-{split}", item)


def bucket_of(numbers: Any, num_buckets: int) -> Any:
    """The bucket of each number of 64 bits: equal ones always meet in the same. (n,) int64"""
    return (numbers % np.uint64(num_buckets)).astype(np.int64)


def item_file(work: Location, folder: str, item: int, suffix: str = "parquet") -> Location:
    """What a step leaves of one of its items."""
    return work / folder / f"{item:07d}.{suffix}"


def write_table(place: Location, table: pa.Table) -> None:
    """An intermediate file."""
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, row_group_size=_GROUP_ROWS, compression="lz4", use_dictionary=False
    )
    place.write_bytes(buffer.getvalue())


def read_rows(place: Location, start: int, stop: int) -> pa.Table:
    """A run of rows of such a file."""
    return pa.concat_tables(read_groups(place, start, stop))


def read_groups(place: Location, start: int, stop: int) -> Iterator[pa.Table]:
    """The same, a group of rows of the file at a time."""
    with place.open_input() as stream:
        file = pq.ParquetFile(stream)
        for group in range(start // _GROUP_ROWS, (stop - 1) // _GROUP_ROWS + 1):
            first = group * _GROUP_ROWS
            low, high = max(start - first, 0), min(stop - first, _GROUP_ROWS)
            yield file.read_row_group(group).slice(low, high - low)
