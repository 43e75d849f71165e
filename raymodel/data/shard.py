"""Dataset: one split of prepared artifacts, as rows that can be read in any order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.mixture import Mixture, check_is_dataset
from raymodel.data.order import Leg, Order, Part
from raymodel.data.permutation import Indices
from raymodel.data.shard_format import (
    PartContent,
    judge_failed_read,
    open_shard,
    shard_location,
)
from raymodel.errors import ArtifactError, ShardError, StorageUnavailableError
from raymodel.storage.artifact import Artifact
from raymodel.storage.manifest import load_manifest
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location

_CACHE_BYTES = 128 * 2**20  # two windows of the data order, see plan.WINDOW_BLOCKS
_OPEN_FILES = 320  # the shards of one window; a process may open 1024 as a rule
_REMOTE_READS = 16  # range reads at a time, to hide the latency of object stores


@dataclass(frozen=True)
class DatasetPart:
    """The rows of one source, in whichever artifact they lie."""

    folder: Location
    """Where its shards are."""
    content: PartContent
    weight: float
    """Of its source, times that of its artifact in a mixture."""
    place: int = field(default=0, compare=False)
    """Of its artifact in the mixture."""

    @property
    def rows(self) -> int:
        return self.content.rows


@dataclass(frozen=True)
class Dataset:
    """Rows of one split, numbered through its parts. Picklable, and cheap to pickle and to open.

    Decoded blocks are kept by the process, not by the object: tasks of Ray Data that come one
    after the other in a process share them.
    """

    split: str
    parts: tuple[DatasetPart, ...]
    processor: Location
    """The folder of the processor."""
    sequence_length: int | None
    """Tokens in a packed row; None for examples, whose length varies."""
    labels: tuple[str, ...] = ()
    """The classes of examples, in the order of their numbers."""
    temperature: float = 1.0
    """Above 1 small parts come more often, see `data/mixing/spec.py`."""

    def weights(
        self, instead: Mapping[str, float] | None = None, names: Sequence[str] = ()
    ) -> tuple[float, ...]:
        """Visits of each row of each part in one epoch.

        Args:
            instead: name of a source or of an artifact → the weight in the place of its own.
            names: of the artifacts, by their places.
        """
        own = [_weight_instead(part, instead or {}, names) for part in self.parts]
        return tempered(own, [part.rows for part in self.parts], self.temperature)

    @property
    def order_parts(self) -> list[Part]:
        """What the order must know of the parts."""
        weights = zip(self.parts, self.weights(), strict=True)
        return [Part(part.rows, part.content.rows_per_block, weight) for part, weight in weights]

    @property
    def num_rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def is_local(self) -> bool:
        """Whether all shards lie on a disk."""
        return all(part.folder.is_local for part in self.parts)

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a row in memory."""
        total = sum(part.rows * part.content.row_bytes for part in self.parts)
        return total / max(self.num_rows, 1)

    @property
    def tokens_per_row(self) -> float:
        """Mean tokens of a row over an epoch, in which each part comes by its weight."""
        visits = [part.visits for part in self.order_parts]
        tokens = sum(
            part.content.tokens * count / part.rows
            for part, count in zip(self.parts, visits, strict=True)
        )
        return tokens / sum(visits)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table that `read` gives."""
        return self._load_block(0, 0).schema

    def order(
        self,
        seed: int,
        global_batch: int,
        *,
        with_partners: bool = False,
        legs: Sequence[Leg] = (),
    ) -> Order:
        """The order in which training reads this split."""
        return Order(self.order_parts, seed, global_batch, with_partners=with_partners, legs=legs)

    def spread(self, count: int) -> Indices:
        """Up to `count` row ids, evenly spaced, each part by its share of an epoch. (n,) int64

        Where nearly all rows are asked for, those of a part that weighs more come more than once.
        """
        count = min(count, self.num_rows)
        visits = np.array([part.visits for part in self.order_parts], dtype=np.int64)
        rows = np.array([part.rows for part in self.parts], dtype=np.int64)
        ends, first_rows = np.cumsum(visits), np.cumsum(rows) - rows
        places = np.arange(count, dtype=np.int64) * ends[-1] // max(count, 1)
        part_of = np.searchsorted(ends, places, side="right")
        within = places - (ends - visits)[part_of]
        row_ids: Indices = first_rows[part_of] + within * rows[part_of] // visits[part_of]
        return row_ids

    def read(self, row_ids: Any) -> pa.Table:
        """The rows with these ids, in this order. (n,) int64 → n rows

        Raises:
            ShardError: a shard is missing or corrupt; the message names it.
            StorageUnavailableError: the storage failed at every try; the message names the shard.
        """
        table, _ = self._read(np.asarray(row_ids, dtype=np.int64), skip_bad=False)
        return table

    def read_available(self, row_ids: Any) -> tuple[pa.Table, Any]:
        """Like `read`, but leaves out the rows of bad blocks.

        Returns: the rows that could be read, and which of `row_ids` they are. (n,) bool
        """
        return self._read(np.asarray(row_ids, dtype=np.int64), skip_bad=True)

    def _read(self, row_ids: Indices, *, skip_bad: bool) -> tuple[pa.Table, Any]:
        available = np.ones(len(row_ids), dtype=bool)
        pieces, places = [], []
        groups = self._by_block(row_ids)
        for group, block in zip(groups, self._load_blocks(groups), strict=True):
            if isinstance(block, ShardError):
                if not skip_bad:
                    raise block
                available[group.places] = False
                continue
            pieces.append(block.take(pa.array(group.rows)))
            places.append(group.places)
        if not pieces:
            return (self.schema.empty_table() if not skip_bad else pa.table({})), available
        back = np.argsort(np.concatenate(places), kind="stable")
        return pa.concat_tables(pieces).combine_chunks().take(pa.array(back)), available

    def _by_block(self, row_ids: Indices) -> list[_BlockRows]:
        first_rows = np.cumsum([0, *(part.rows for part in self.parts)])
        if row_ids.size and not (row_ids.min() >= 0 and row_ids.max() < first_rows[-1]):
            raise IndexError(f"row ids must lie in 0 … {first_rows[-1] - 1}")
        part_of = np.searchsorted(first_rows, row_ids, side="right") - 1
        per_block = np.array([part.content.rows_per_block for part in self.parts], dtype=np.int64)
        blocks, rows = np.divmod(row_ids - first_rows[part_of], per_block[part_of])
        by_block = np.lexsort((blocks, part_of))
        changes = np.diff(part_of[by_block]) | np.diff(blocks[by_block])
        groups = np.split(by_block, np.flatnonzero(changes) + 1) if row_ids.size else []
        return [
            _BlockRows(int(part_of[group[0]]), int(blocks[group[0]]), group, rows[group])
            for group in groups
        ]

    def _load_block(self, part_index: int, block: int) -> pa.Table:
        folder, part = self.parts[part_index].folder, self.parts[part_index].content
        blocks_per_shard = part.rows_per_shard // part.rows_per_block
        shard_index, group = divmod(block, blocks_per_shard)
        return _blocks.get((folder, block), lambda: _read_block(folder, shard_index, group, part))

    def _load_blocks(self, groups: list[_BlockRows]) -> list[pa.Table | ShardError]:
        def load(group: _BlockRows) -> pa.Table | ShardError:
            try:
                return self._load_block(group.part_index, group.block)
            except ShardError as error:
                return error

        if all(part.folder.is_local for part in self.parts):
            return [load(group) for group in groups]
        with ThreadPoolExecutor(_REMOTE_READS) as pool:
            return list(pool.map(load, groups))


class _BlockRows(NamedTuple):
    """The asked rows that lie in one block."""

    part_index: int
    block: int
    """Counted through the part."""
    places: Indices
    """Where in the asked row ids they are."""
    rows: Indices
    """Where in the block they are."""


def open_dataset(source: Mixture | Artifact | Location, split: str) -> Dataset:
    """Opens one split of a dataset; takes the same time for any number of shards.

    Of a mixture, those without rows in this split are left out.

    Raises:
        ArtifactError: no dataset, or one without rows in this split.
    """
    if isinstance(source, Location):
        return dataset_of(source, load_manifest(source).content, split)
    if isinstance(source, Artifact):
        return dataset_of(source.location, source.content, split)
    datasets, problems = [], []
    for place, (artifact, weight) in enumerate(source):
        try:
            datasets.append(dataset_of(artifact.location, artifact.content, split, weight, place))
        except ArtifactError as error:
            problems.append(error)
    if not datasets:
        raise problems[0]
    parts = tuple(part for dataset in datasets for part in dataset.parts)
    return replace(datasets[0], parts=parts)


def dataset_of(
    location: Location,
    content: dict[str, Any],
    split: str,
    weight: float = 1.0,
    place: int = 0,
) -> Dataset:
    """Like `open_dataset`, from a manifest's content."""
    check_is_dataset(location, content)
    splits = content["splits"]
    parts = splits.get(split, {}).get("parts", [])
    if not parts:
        raise ArtifactError(
            f"{location} has no rows in the split {split!r}; it has rows in "
            f"{', '.join(name for name in splits if splits[name]['parts']) or 'none'}. "
            "For a held-out split, raise `holdout` or give more data"
        )
    loaded = [PartContent.load(part, location) for part in parts]
    return Dataset(
        split,
        tuple(
            DatasetPart(location / part.folder, part, part.weight * weight, place)
            for part in loaded
        ),
        location / content["processor"]["folder"],
        content.get("sequence_length"),
        tuple(content.get("labels", ())),
    )


def _weight_instead(part: DatasetPart, instead: Mapping[str, float], names: Sequence[str]) -> float:
    source, artifact = part.content.source, names[part.place] if names else ""
    if source not in instead and artifact not in instead:
        return part.weight
    of_artifact = part.weight / part.content.weight
    return instead.get(source, part.content.weight) * instead.get(artifact, of_artifact)


def tempered(
    weights: Sequence[float], rows: Sequence[int], temperature: float
) -> tuple[float, ...]:
    """Weights with which the share of each part is its weight times its rows to the power of
    1 / temperature, and an epoch as long as before."""
    if temperature == 1:
        return tuple(weights)
    shares = [w * n ** (1 / temperature) for w, n in zip(weights, rows, strict=True)]
    total = sum(w * n for w, n in zip(weights, rows, strict=True)) / (sum(shares) or 1.0)
    # Rounded, since the last digits of a power are not the same on all machines.
    return tuple(float(f"{s * total / n:.9g}") for s, n in zip(shares, rows, strict=True))


# ---- what a process keeps ------------------------------------------------------------------------


class _Cache:
    """Least recently used values, up to a total cost."""

    def __init__(self, limit: int, cost: Callable[[Any], int]) -> None:
        self._limit, self._cost, self._total = limit, cost, 0
        self._values: OrderedDict[Any, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, load: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = load()  # unlocked, so that loads overlap; a race at worst loads twice
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._total += self._cost(value)
            while self._total > self._limit and len(self._values) > 1:
                _, dropped = self._values.popitem(last=False)
                self._total -= self._cost(dropped)
        return value

    def drop(self, key: Any) -> None:
        with self._lock:
            if key in self._values:
                self._total -= self._cost(self._values.pop(key))


class _OpenShard(NamedTuple):
    file: pq.ParquetFile
    lock: threading.Lock
    """A reader of Parquet files must not be used by two threads at once."""


_blocks = _Cache(_CACHE_BYTES, lambda table: table.nbytes)
_files = _Cache(_OPEN_FILES, lambda file: 1)


def _read_block(folder: Location, shard_index: int, group: int, part: PartContent) -> pa.Table:
    place = shard_location(folder, shard_index)
    return with_retries(
        lambda: _try_read_block(folder, shard_index, group, part), f"reading shard {place}"
    )


def _try_read_block(folder: Location, shard_index: int, group: int, part: PartContent) -> pa.Table:
    key = (folder, shard_index)
    try:
        shard = _files.get(
            key, lambda: _OpenShard(open_shard(folder, shard_index), threading.Lock())
        )
        with shard.lock:
            table = shard.file.read_row_group(group, use_threads=False)
    except StorageUnavailableError:
        raise
    except (pa.ArrowException, OSError, IndexError) as error:
        _files.drop(key)  # another try opens it anew
        raise judge_failed_read(folder, shard_index, error) from error
    start = shard_index * part.rows_per_shard + group * part.rows_per_block
    expected = min(part.rows_per_block, part.rows - start)
    if table.num_rows != expected:
        seen = ValueError(f"block {group} has {table.num_rows} rows instead of {expected}")
        raise judge_failed_read(folder, shard_index, seen)
    return table
