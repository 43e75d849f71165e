"""The steps from raw records to shards. Each is a list of items that can be done anywhere.

An item writes its files below the work folder and then its summary, `<step>/0000042.json`; what
has a summary is done, and an interrupted step goes on with what has none. Nothing depends on how
many items run at a time, so the bytes of the shards do not either.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.account import PLACE_COLUMNS, SAMPLES_PER_REASON, Account, Place
from raymodel.data.clean import (
    bucket_of,
    compare_documents,
    holdout_key,
    is_held_out,
    key_table,
)
from raymodel.data.document import (
    Document,
    classes_of,
    documents_of,
    documents_table,
    make_document,
)
from raymodel.data.read import read_slice
from raymodel.data.record import FileSlice, digest_of
from raymodel.data.roles import forms_of
from raymodel.data.rows import RowKind, SavedProcessor, row_tokens
from raymodel.data.shard_format import shard_location, write_shard
from raymodel.data.sides import Sides
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.modality.characters import train_character_tokenizer
from raymodel.modality.text import TextProcessor, train_tokenizer
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
class ReadStep:
    """Raw records → cleaned documents, one item a partition."""

    work: Location
    partitions: tuple[Partition, ...]
    sources: tuple[SourceSpec, ...]
    roots: tuple[Location, ...]
    kind: RowKind
    clean: CleanSpec
    seed: int
    holdout: float
    sample_frac: float
    """Share of the training documents set aside for the tokenizer's training."""
    num_buckets: int
    """Buckets of document keys; 0 when documents are not compared."""
    name: str = "read"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return len(self.partitions)

    def source_size(self, item: int) -> SourceSize:
        return self.partitions[item].size

    def run(self, item: int) -> dict[str, Any]:
        partition = self.partitions[item]
        source, root = self.sources[partition.source_index], self.roots[partition.source_index]
        account = Account()
        documents, splits, sample, sides = list[Document](), list[str](), list[str](), Sides()
        fields, seen_fields = self.kind.fields, list[str]()
        texts = [role for role, field in fields.items() if field.kind in ("text", "words")]
        for piece in partition.pieces:
            for record in read_slice(root, piece, source, account):
                seen_fields = seen_fields or sorted(record.fields)
                document = make_document(record, source, root, fields, self.clean, account)
                if document is None:
                    continue
                documents.append(document)
                account.found.update(
                    ("conversation", form) for form in forms_of(record, source, fields).values()
                )
                splits.append(self._split_of(document, source))
                self._note_side(sides, document, splits[-1], source)
                if splits[-1] == "train" and self._is_sampled(record.document):
                    sample += [_as_text(document.values[role]) for role in texts]
        write_table(
            item_file(self.work, "documents", item), documents_table(documents, splits, fields)
        )
        if self.sample_frac:
            sampled = pa.table({"text": pa.array(sample, pa.large_string())})
            write_table(item_file(self.work, "sample", item), sampled)
        labels = self._labels(documents)
        if self.num_buckets:
            keys = key_table([document.key for document in documents], labels, item)
            self._write_keys(keys, item)
        return {
            "documents": len(documents),
            "labels": sorted(
                {label for document in documents for label in self._classes(document)}
            ),
            "fields": seen_fields,
            "sides": sides.summary(),
            "account": account.summary(source.path),
        }

    def _labels(self, documents: Sequence[Document]) -> list[str | None]:
        """The one answer to each document, where it has one."""
        role = self.kind.label_role
        if role is None:
            return [None] * len(documents)
        return [str(document.values[role]) for document in documents]

    def _classes(self, document: Document) -> list[str]:
        return classes_of(document, self.kind.class_role)

    def _note_side(self, sides: Sides, document: Document, split: str, source: SourceSpec) -> None:
        if self.kind.label_role is None or not self.holdout or source.split is not None:
            return
        key = holdout_key(document.group, self.seed)
        for label in self._classes(document):
            sides.add(label, split, key, document.group.hex())

    def _split_of(self, document: Document, source: SourceSpec) -> str:
        if source.split == "test":
            return "test"
        if source.split == "validation":
            return "holdout"
        has_own = any(each.split == "validation" for each in self.sources)
        if source.split == "train" and has_own:
            return "train"
        return "holdout" if is_held_out(document.group, self.seed, self.holdout) else "train"

    def _is_sampled(self, document: bytes) -> bool:
        key = hashlib.blake2b(document, digest_size=8, person=b"tokenizer").digest()
        return int.from_bytes(key, "little") < self.sample_frac * 2.0**64

    def _write_keys(self, keys: pa.Table, item: int) -> None:
        """One row group a bucket, so that a deduplication task reads only its own."""
        buffer, buckets = io.BytesIO(), bucket_of(keys, self.num_buckets)
        with pq.ParquetWriter(buffer, keys.schema) as writer:
            for bucket in range(self.num_buckets):
                writer.write_table(keys.filter(pa.array(buckets == bucket)))
        item_file(self.work, "keys", item).write_bytes(buffer.getvalue())


@dataclass(frozen=True, kw_only=True)
class DedupStep:
    """Document keys → which documents repeat an earlier one, or contradict it by another label.

    One item a bucket of keys.
    """

    work: Location
    num_buckets: int
    num_partitions: int
    name: str = "dedup"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return self.num_buckets

    def source_size(self, item: int) -> SourceSize:
        return SourceSize()

    def run(self, item: int) -> dict[str, Any]:
        keys = []
        for partition in range(self.num_partitions):
            with item_file(self.work, "keys", partition).open_input() as stream:
                keys.append(pq.ParquetFile(stream).read_row_group(item))
        found = compare_documents(pa.concat_tables(keys))
        write_table(item_file(self.work, "duplicates", item), found.duplicates)
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


def _as_text(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


@dataclass(frozen=True, kw_only=True)
class TokenizerStep:
    """The sample → a trained tokenizer, one item."""

    work: Location
    output: Location
    num_partitions: int
    spec: TokenizerSpec
    name: str = "tokenizer"
    num_items: int = 1
    loads_model: bool = False

    def source_size(self, item: int) -> SourceSize:
        return SourceSize()

    def run(self, item: int) -> dict[str, Any]:
        texts, seen, room = [], set[bytes](), self.spec.sample_chars
        for partition in range(self.num_partitions):
            with item_file(self.work, "sample", partition).open_input() as stream:
                sample = pq.read_table(stream)["text"].to_pylist()
            for text in sample:
                key = digest_of(text.encode())
                if key in seen or room <= 0:
                    continue
                seen.add(key)
                texts.append(text[:room])
                room -= len(texts[-1])
        assert self.spec.vocab_size is not None, "a tokenizer to load is not trained"
        if self.spec.tokens == "characters":
            tokenizer = train_character_tokenizer(texts, self.spec.vocab_size)
        else:
            tokenizer = train_tokenizer(
                texts, self.spec.vocab_size, mask=self.spec.mask, sentinels=self.spec.sentinels
            )
        TextProcessor(tokenizer).save(self.output)
        return {"characters": sum(map(len, texts)), "vocab_size": len(tokenizer)}


@dataclass(frozen=True, kw_only=True)
class RowStep:
    """Documents → rows of both splits, one item a partition."""

    work: Location
    partitions: tuple[Partition, ...]
    sources: tuple[SourceSpec, ...]
    kind: RowKind
    processor: SavedProcessor
    labels: tuple[str, ...]
    num_buckets: int
    """Files of duplicates, which are dropped; 0 when they are kept."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """Group in hex → the split that it moves to, see `data/sides.py`."""
    name: str = "rows"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return len(self.partitions)

    def source_size(self, item: int) -> SourceSize:
        return self.partitions[item].size

    def run(self, item: int) -> dict[str, Any]:
        source = self.sources[self.partitions[item].source_index]
        with item_file(self.work, "documents", item).open_input() as stream:
            table = pq.read_table(stream)
        table = table.filter(pa.array(self._is_first(item, table.num_rows)))
        splits = self._splits(table)
        account, cut, summary = Account(), Counter[str](), dict[str, Any]()
        for split in SPLITS:
            documents = documents_of(table.filter(pa.array(splits == split)), self.kind.fields)
            rows = self.kind.rows(documents, source, self.processor, self.labels, account)
            write_table(rows_file(self.work, split, item), rows.table)
            cut += rows.cut
            summary[split] = {
                "rows": rows.table.num_rows,
                "tokens": int(row_tokens(rows.table).sum()),
                "documents": rows.documents,
                "num_bytes": rows.num_bytes,
                "memory_bytes": rows.table.nbytes,
                "labels": dict(rows.labels),
            }
        return summary | {"cut": dict(cut), "account": account.summary(source.path)}

    def _splits(self, table: pa.Table) -> Any:
        found = table["split"].to_numpy(zero_copy_only=False).astype(object)
        if self.moves:
            groups = [group.hex() for group in table["group"].to_pylist()]
            found[:] = [self.moves.get(g, s) for g, s in zip(groups, found, strict=True)]
        return found

    def _is_first(self, item: int, num_documents: int) -> Any:
        is_first = np.ones(num_documents, dtype=bool)
        for bucket in range(self.num_buckets):
            with item_file(self.work, "duplicates", bucket).open_input() as stream:
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
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return len(self.shards)

    def source_size(self, item: int) -> SourceSize:
        return SourceSize()

    def run(self, item: int) -> dict[str, Any]:
        shard = self.shards[item]
        table = pa.concat_tables(
            read_rows(place, start, stop) for place, start, stop in shard.pieces
        )
        place = shard_location(shard.folder, shard.shard_index)
        tokens = int(row_tokens(table).sum())
        record = write_shard(place, table, shard.rows_per_block, tokens)
        return {**vars(record)}


def rows_file(work: Location, split: str, item: int) -> Location:
    """The rows that one partition gives to one split."""
    return item_file(work, f"rows-{split}", item)


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
    with place.open_input() as stream:
        first, last = start // _GROUP_ROWS, (stop - 1) // _GROUP_ROWS
        groups: Sequence[int] = range(first, last + 1)
        table = pq.ParquetFile(stream).read_row_groups(list(groups))
    return table.slice(start - first * _GROUP_ROWS, stop - start)
