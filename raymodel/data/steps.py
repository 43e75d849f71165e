"""The steps from raw records to shards. Each is a list of items that can be done anywhere.

An item writes its files below the work folder and then its summary, `<step>/0000042.json`; what
has a summary is done, and an interrupted step goes on with what has none. Nothing depends on how
many items run at a time, so the bytes of the shards do not either.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.account import Account
from raymodel.data.clean import bucket_of, find_duplicates, is_held_out, key_table
from raymodel.data.read import FileSlice, digest_of, read_slice
from raymodel.data.rows import RowKind, SavedTokenizer, row_tokens
from raymodel.data.shard_format import shard_location, write_shard
from raymodel.data.spec import SourceSpec
from raymodel.data.tokenizer import save_tokenizer, train_tokenizer
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

SPLITS = ("train", "holdout")
_GROUP_ROWS = 4096  # rows of an intermediate file that are read together
_MAX_LABELS = 10_000  # more than this is a text field, not a label


class Step(Protocol):
    """A list of independent items. Picklable."""

    @property
    def name(self) -> str: ...

    @property
    def work(self) -> Location: ...

    @property
    def num_items(self) -> int: ...

    def run(self, item: int) -> dict[str, Any]:
        """Does one item and returns its summary; doing it again gives the same."""
        ...


def complete_item(step: Step, item: int) -> None:
    """Does an item and marks it done."""
    summary = step.run(item)
    _item_file(step.work, step.name, item, "json").write_json(summary)


def missing_items(step: Step) -> list[int]:
    """The items that are not done yet."""
    done = {entry.name for entry in (step.work / step.name).list()}
    return [item for item in range(step.num_items) if f"{item:07d}.json" not in done]


@dataclass(frozen=True)
class Partition:
    """What one task reads of one source."""

    source_index: int
    pieces: tuple[FileSlice, ...]


@dataclass(frozen=True, kw_only=True)
class ReadStep:
    """Raw records → cleaned documents, one item a partition."""

    work: Location
    partitions: tuple[Partition, ...]
    sources: tuple[SourceSpec, ...]
    roots: tuple[Location, ...]
    kind: RowKind
    seed: int
    holdout: float
    sample_frac: float
    """Share of the training documents set aside for the tokenizer's training."""
    num_buckets: int
    """Buckets of document keys; 0 when duplicates are kept."""
    name: str = "read"

    @property
    def num_items(self) -> int:
        return len(self.partitions)

    def run(self, item: int) -> dict[str, Any]:
        partition = self.partitions[item]
        source, root = self.sources[partition.source_index], self.roots[partition.source_index]
        account = Account()
        stored, texts, held_out, keys, sample = [], [], [], [], []
        labels, seen_fields = set(), list[str]()
        for piece in partition.pieces:
            for record in read_slice(root, piece, source, account):
                seen_fields = seen_fields or sorted(record.fields)
                document = self.kind.document(record.fields, source, account)
                if document is None:
                    continue
                is_out = is_held_out(record.document, self.seed, self.holdout)
                stored.append(document.stored)
                texts.append(len(document.text.encode()))
                held_out.append(is_out)
                keys.append(digest_of(document.text.encode()))
                if not is_out and self._is_sampled(record.document):
                    sample.append(document.text)
                if document.label is not None:
                    labels.add(document.label)
        _check_labels(labels, source)
        table = pa.table(
            {
                "stored": pa.array(stored, pa.large_string()),
                "text_bytes": pa.array(texts, pa.int64()),
                "held_out": pa.array(held_out, pa.bool_()),
            }
        )
        _write_table(_item_file(self.work, "documents", item), table)
        if self.sample_frac:
            sampled = pa.table({"text": pa.array(sample, pa.large_string())})
            _write_table(_item_file(self.work, "sample", item), sampled)
        if self.num_buckets:
            self._write_keys(key_table(keys, item), item)
        return {
            "documents": len(stored),
            "read": account.read,
            "left_out": dict(account.left_out),
            "rejects": [asdict(reject) for reject in account.rejects],
            "labels": sorted(labels, key=str),
            "fields": seen_fields,
        }

    def _is_sampled(self, document: bytes) -> bool:
        key = hashlib.blake2b(document, digest_size=8, person=b"tokenizer").digest()
        return int.from_bytes(key, "little") < self.sample_frac * 2.0**64

    def _write_keys(self, keys: pa.Table, item: int) -> None:
        """One row group a bucket, so that a deduplication task reads only its own."""
        buffer, buckets = io.BytesIO(), bucket_of(keys, self.num_buckets)
        with pq.ParquetWriter(buffer, keys.schema) as writer:
            for bucket in range(self.num_buckets):
                writer.write_table(keys.filter(pa.array(buckets == bucket)))
        _item_file(self.work, "keys", item).write_bytes(buffer.getvalue())


def _check_labels(labels: set[Any], source: SourceSpec) -> None:
    if len(labels) > _MAX_LABELS:
        raise SourceError(
            f"source {source.path!r}: the field {source.label!r} has more than {_MAX_LABELS} "
            "different values; a label has few. Name the field that holds the class"
        )


@dataclass(frozen=True, kw_only=True)
class DedupStep:
    """Document keys → which documents repeat an earlier one, one item a bucket of keys."""

    work: Location
    num_buckets: int
    num_partitions: int
    name: str = "dedup"

    @property
    def num_items(self) -> int:
        return self.num_buckets

    def run(self, item: int) -> dict[str, Any]:
        keys = []
        for partition in range(self.num_partitions):
            with _item_file(self.work, "keys", partition).open_input() as stream:
                keys.append(pq.ParquetFile(stream).read_row_group(item))
        duplicates = find_duplicates(pa.concat_tables(keys))
        _write_table(_item_file(self.work, "duplicates", item), duplicates)
        return {"duplicates": duplicates.num_rows}


@dataclass(frozen=True, kw_only=True)
class TokenizerStep:
    """The sample → a trained tokenizer, one item."""

    work: Location
    output: Location
    num_partitions: int
    vocab_size: int
    sample_chars: int
    name: str = "tokenizer"
    num_items: int = 1

    def run(self, item: int) -> dict[str, Any]:
        texts, seen, room = [], set[bytes](), self.sample_chars
        for partition in range(self.num_partitions):
            with _item_file(self.work, "sample", partition).open_input() as stream:
                sample = pq.read_table(stream)["text"].to_pylist()
            for text in sample:
                key = digest_of(text.encode())
                if key in seen or room <= 0:
                    continue
                seen.add(key)
                texts.append(text[:room])
                room -= len(texts[-1])
        tokenizer = train_tokenizer(texts, self.vocab_size)
        save_tokenizer(tokenizer, self.output)
        return {"characters": sum(map(len, texts)), "vocab_size": len(tokenizer)}


@dataclass(frozen=True, kw_only=True)
class RowStep:
    """Documents → rows of both splits, one item a partition."""

    work: Location
    partitions: tuple[Partition, ...]
    sources: tuple[SourceSpec, ...]
    kind: RowKind
    tokenizer: SavedTokenizer
    labels: tuple[str, ...]
    num_buckets: int
    name: str = "rows"

    @property
    def num_items(self) -> int:
        return len(self.partitions)

    def run(self, item: int) -> dict[str, Any]:
        source = self.sources[self.partitions[item].source_index]
        with _item_file(self.work, "documents", item).open_input() as stream:
            documents = pq.read_table(stream)
        documents = documents.filter(pa.array(self._is_first(item, documents.num_rows)))
        held_out = documents["held_out"].to_numpy()
        summary = {}
        for split, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
            table = documents.filter(pa.array(chosen))
            rows = self.kind.rows(table["stored"].to_pylist(), source, self.tokenizer, self.labels)
            _write_table(rows_file(self.work, split, item), rows)
            summary[split] = {
                "rows": rows.num_rows,
                "tokens": int(row_tokens(rows).sum()),
                "documents": table.num_rows,
                "text_bytes": int(table["text_bytes"].to_numpy().sum()),
                "memory_bytes": rows.nbytes,
            }
        return summary

    def _is_first(self, item: int, num_documents: int) -> Any:
        is_first = np.ones(num_documents, dtype=bool)
        for bucket in range(self.num_buckets):
            with _item_file(self.work, "duplicates", bucket).open_input() as stream:
                # The rows are sorted by partition, so statistics let most be passed over.
                found = pq.read_table(stream, filters=[("partition", "=", item)])
            is_first[found["index"].to_numpy()] = False
        return is_first


@dataclass(frozen=True)
class ShardItem:
    """One shard and the rows that go into it."""

    folder: Location
    shard_index: int
    rows_per_block: int
    pieces: tuple[tuple[Location, int, int], ...]
    """Files of rows, each with the first row and the row after the last."""


@dataclass(frozen=True, kw_only=True)
class ShardStep:
    """Rows → shards of equal numbers of rows, one item a shard."""

    work: Location
    shards: tuple[ShardItem, ...]
    name: str = "shards"

    @property
    def num_items(self) -> int:
        return len(self.shards)

    def run(self, item: int) -> dict[str, Any]:
        shard = self.shards[item]
        table = pa.concat_tables(
            _read_rows(place, start, stop) for place, start, stop in shard.pieces
        )
        place = shard_location(shard.folder, shard.shard_index)
        tokens = int(row_tokens(table).sum())
        record = write_shard(place, table, shard.rows_per_block, tokens)
        return {**vars(record)}


def rows_file(work: Location, split: str, item: int) -> Location:
    """The rows that one partition gives to one split."""
    return _item_file(work, f"rows-{split}", item)


def _item_file(work: Location, folder: str, item: int, suffix: str = "parquet") -> Location:
    return work / folder / f"{item:07d}.{suffix}"


def _write_table(place: Location, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, row_group_size=_GROUP_ROWS, compression="lz4", use_dictionary=False
    )
    place.write_bytes(buffer.getvalue())


def _read_rows(place: Location, start: int, stop: int) -> pa.Table:
    with place.open_input() as stream:
        first, last = start // _GROUP_ROWS, (stop - 1) // _GROUP_ROWS
        groups: Sequence[int] = range(first, last + 1)
        table = pq.ParquetFile(stream).read_row_groups(list(groups))
    return table.slice(start - first * _GROUP_ROWS, stop - start)
