"""The first step: raw records become documents, cleaned, each with its split."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.account import Account
from raymodel.data.card.profile import Profile
from raymodel.data.clean import (
    NOT_SHARED,
    holdout_key,
    is_held_out,
    is_shared,
    key_table,
)
from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.dedup.texts import compares_images
from raymodel.data.document import Document, classes_of, documents_table, make_document
from raymodel.data.listed import within
from raymodel.data.read import read_slice
from raymodel.data.roles import forms_of
from raymodel.data.rows import RowKind
from raymodel.data.sides import Sides
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import OfPartitions, bucket_of, item_file, write_table
from raymodel.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class ReadStep(OfPartitions):
    """Raw records → cleaned documents, one item a partition."""

    work: Location
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

    def run(self, item: int) -> dict[str, Any]:
        partition = self.partitions[item]
        source, root = self.sources[partition.source_index], self.roots[partition.source_index]
        account, profile = Account(within=within(root)), Profile()
        documents, splits, sample, sides = list[Document](), list[str](), list[str](), Sides()
        fields, seen_fields = self.kind.fields, list[str]()
        cleaner = Cleaner(self.clean)
        texts = [role for role, field in fields.items() if field.kind in ("text", "words")]
        for piece in partition.pieces:
            for record in read_slice(root, piece, source, account):
                seen_fields = seen_fields or sorted(record.fields)
                document = make_document(record, source, root, fields, cleaner, account)
                if document is None:
                    continue
                split = self._split_of(document, source)
                if split == "train" and not is_shared(document.group, self.seed, source.share):
                    account.leave_out(NOT_SHARED, record.fields)
                    continue
                documents.append(document)
                profile.add_found(piece.name, record.fields)
                account.found.update(
                    ("conversation", form) for form in forms_of(record, source, fields).values()
                )
                splits.append(split)
                self._note_side(sides, document, split, source)
                if split == "train" and self._is_sampled(record.document):
                    sample += [_as_text(document.values[role]) for role in texts]
        looks = self.clean.dedup.name == "near" and compares_images(fields)
        table = documents_table(documents, splits, fields, looks=looks)
        write_table(item_file(self.work, "documents", item), table)
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
            "profile": profile.summary(),
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
        buffer, buckets = io.BytesIO(), bucket_of(keys["high"].to_numpy(), self.num_buckets)
        with pq.ParquetWriter(buffer, keys.schema) as writer:
            for bucket in range(self.num_buckets):
                writer.write_table(keys.filter(pa.array(buckets == bucket)))
        item_file(self.work, "keys", item).write_bytes(buffer.getvalue())


def _as_text(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)
