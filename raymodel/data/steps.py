"""The steps from documents to shards: duplicates, the tokenizer, rows, shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.account import PLACE_COLUMNS, SAMPLES_PER_REASON, Account, Place
from raymodel.data.card.profile import Profile
from raymodel.data.clean import compare_documents
from raymodel.data.dedup.drops import DUPLICATES, Drops
from raymodel.data.document import documents_of, find_image
from raymodel.data.rows import RowKind, SavedProcessor, row_tokens
from raymodel.data.shard_format import shard_location, write_shard
from raymodel.data.spec import SourceSpec
from raymodel.data.step import (
    SPLITS,
    OfBuckets,
    OfPartitions,
    OfResults,
    item_file,
    read_groups,
    rows_file,
    write_table,
)
from raymodel.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class DedupStep(OfBuckets):
    """Document keys → which documents repeat an earlier one, or contradict it by another label.

    One item a bucket of keys.
    """

    work: Location
    name: str = "dedup"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        keys = []
        for partition in range(self.num_partitions):
            with item_file(self.work, "keys", partition).open_input() as stream:
                keys.append(pq.ParquetFile(stream).read_row_group(item))
        found = compare_documents(pa.concat_tables(keys))
        write_table(item_file(self.work, DUPLICATES, item), found.duplicates)
        samples = found.conflicts.slice(0, SAMPLES_PER_REASON).to_pylist()
        return {
            "duplicates": found.duplicates.num_rows,
            "conflicts": found.conflicts.num_rows,
            "samples": [self._place_text(**sample) for sample in samples],
        }

    def _place_text(self, partition: int, index: int) -> str:
        with item_file(self.work, "documents", partition).open_input() as stream:
            places = pq.read_table(stream, columns=list(PLACE_COLUMNS)).slice(index, 1)
        return str(Place(**places.to_pylist()[0]))


@dataclass(frozen=True, kw_only=True)
class RowStep(OfPartitions):
    """Documents → rows of both splits, one item a partition."""

    work: Location
    sources: tuple[SourceSpec, ...]
    kind: RowKind
    processor: SavedProcessor
    labels: tuple[str, ...]
    drops: Drops
    """What earlier steps found."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """Group in hex → the split that it moves to, see `data/sides.py`."""
    name: str = "rows"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        source = self.sources[self.partitions[item].source_index]
        table = self.drops.read(self.work, item)
        account, cut, summary = Account(), Counter[str](), dict[str, Any]()
        table, splits, near_conflicts = self._kept(item, table, account)
        profile = Profile()
        for split in SPLITS:
            documents = documents_of(table.filter(pa.array(splits == split)), self.kind.fields)
            rows = self.kind.rows(documents, source, self.processor, self.labels, account)
            write_table(rows_file(self.work, split, item), rows.table)
            profile.add_rows(rows.seen, self.kind.fields, split)
            cut += rows.cut
            summary[split] = {
                "rows": rows.table.num_rows,
                "tokens": int(row_tokens(rows.table).sum()),
                "documents": rows.documents,
                "num_bytes": rows.num_bytes,
                "memory_bytes": rows.table.nbytes,
                "labels": dict(rows.labels),
            }
        return summary | {
            "cut": dict(cut),
            "near_conflicts": near_conflicts,
            "account": account.summary(source.path),
            "profile": profile.summary(),
        }

    def _kept(self, item: int, table: pa.Table, account: Account) -> tuple[pa.Table, Any, int]:
        """The documents that stay, with the split of each, and how many of them are near to one of
        another label; the others are entered in the account, but for those that are equal."""
        splits = self._splits(table)
        stays = self.drops.first(self.work, item, table.num_rows)
        reasons, contradicts = self.drops.reasons(self.work, item, splits, self.moves)
        for reason in sorted({reason for reason in reasons[stays] if reason is not None}):
            found = np.flatnonzero(stays & (reasons == reason))
            shown, rest = found[:SAMPLES_PER_REASON], len(found) - SAMPLES_PER_REASON
            for document in documents_of(table.take(pa.array(shown)), self.kind.fields):
                account.begin(**vars(document.place))
                image = find_image(document.values, self.kind.fields)
                account.leave_out(reason, dict(document.values), image=image)
            if rest > 0:
                account.leave_out(reason, records=rest)
        stays &= np.array([reason is None for reason in reasons], dtype=bool)
        return table.filter(pa.array(stays)), splits[stays], int((contradicts & stays).sum())

    def _splits(self, table: pa.Table) -> Any:
        found = table["split"].to_numpy(zero_copy_only=False).astype(object)
        if self.moves:
            groups = [group.hex() for group in table["group"].to_pylist()]
            found[:] = [self.moves.get(g, s) for g, s in zip(groups, found, strict=True)]
        return found


@dataclass(frozen=True)
class ShardItem:
    """One shard and the rows that go into it."""

    folder: Location
    shard_index: int
    rows_per_block: int
    pieces: tuple[tuple[Location, int, int], ...]
    """Files of rows, each with the first row and the row after the last."""


@dataclass(frozen=True, kw_only=True)
class ShardStep(OfResults):
    """Rows → shards of equal numbers of rows, one item a shard."""

    work: Location
    shards: tuple[ShardItem, ...]
    name: str = "shards"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return len(self.shards)

    def run(self, item: int) -> dict[str, Any]:
        shard = self.shards[item]
        tables = (table for piece in shard.pieces for table in read_groups(*piece))
        place = shard_location(shard.folder, shard.shard_index)
        record = write_shard(
            place, tables, shard.rows_per_block, lambda rows: int(row_tokens(rows).sum())
        )
        return {**vars(record)}
