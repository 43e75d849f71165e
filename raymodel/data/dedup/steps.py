"""The steps that find near-duplicates: sketches of documents, and who meets whom in a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymodel.data.clean import text_hash
from raymodel.data.dedup.drops import NEAR_CONFLICTS, NEAR_DUPLICATES, Drops
from raymodel.data.dedup.minhash import band_keys, has_words, signatures, sketches
from raymodel.data.dedup.near import LABELLED_RECORD, RECORD, find_near
from raymodel.data.dedup.plan import BandPlan
from raymodel.data.dedup.portions import portions
from raymodel.data.dedup.spill import read_spills, write_spill
from raymodel.data.dedup.texts import num_texts
from raymodel.data.document import Document
from raymodel.data.step import SPLITS, OfPartitions, OfResults, bucket_of, item_file
from raymodel.storage.uri import Location
from raymodel.tasks.fields import Fields


@dataclass(frozen=True, kw_only=True)
class SketchStep(OfPartitions):
    """Documents → their sketches in each band, one item a partition."""

    work: Location
    fields: Fields
    label_role: str | None
    """The role whose values can contradict one another."""
    ngram: int
    plan: BandPlan
    num_buckets: int
    """Of each band."""
    drops: Drops
    """Those that are left out already."""
    name: str = "sketches"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        table = self.drops.read(self.work, item)
        places = np.flatnonzero(self.drops.stays(self.work, item, table.num_rows))
        keys, records = self._sketched(table, places, item)
        for band in range(self.plan.bands):
            records["key"] = keys[:, band]
            buckets = bucket_of(records["key"], self.num_buckets)
            write_spill(bands_file(self.work, band, item), records, buckets, self.num_buckets)
        return {"documents": len(records)}

    def _sketched(self, table: pa.Table, places: Any, item: int) -> tuple[Any, Any]:
        """The keys of each document that has words, and its record without one."""
        keys, records = [np.empty((0, self.plan.bands), np.uint64)], [np.empty(0, self._dtype)]
        for portion in portions(table, places, self.fields):
            minima = signatures(portion.texts, self.ngram)
            has_any = has_words(minima)
            record = np.zeros(len(portion.places), self._dtype)
            record["partition"], record["index"] = item, portion.places
            record["sketch"] = sketches(minima, num_texts(self.fields))
            if self.label_role is not None:
                splits = table["split"].take(pa.array(portion.places)).to_pylist()
                self._mark(record, portion.documents, splits)
            keys.append(band_keys(minima, self.plan)[has_any])
            records.append(record[has_any])
        return np.concatenate(keys), np.concatenate(records)

    def _mark(self, records: Any, documents: list[Document], splits: list[str]) -> None:
        assert self.label_role is not None, "the caller looked"
        labels = [str(document.values[self.label_role]) for document in documents]
        records["label"] = [text_hash(label) for label in labels]
        groups = b"".join(document.group for document in documents)
        records["group"] = np.frombuffer(groups, dtype=np.uint8).reshape(len(documents), -1)
        records["split"] = [SPLITS.index(split) for split in splits]

    @property
    def _dtype(self) -> Any:
        return record_type(is_labelled=self.label_role is not None)


@dataclass(frozen=True, kw_only=True)
class NearStep(OfResults):
    """Sketches → which documents are near to an earlier one, one item a bucket of a band."""

    work: Location
    num_texts: int
    threshold: float
    plan: BandPlan
    num_buckets: int
    """Of each band."""
    num_partitions: int
    is_labelled: bool
    name: str = "near"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return self.plan.bands * self.num_buckets

    def run(self, item: int) -> dict[str, Any]:
        band, bucket = divmod(item, self.num_buckets)
        dtype = record_type(is_labelled=self.is_labelled)
        places = [bands_file(self.work, band, part) for part in range(self.num_partitions)]
        records = read_spills(places, bucket, self.num_buckets, dtype)
        found = find_near(records, self.num_texts, self.threshold)
        self._write(NEAR_DUPLICATES, item, found.duplicates)
        if self.is_labelled:
            self._write(NEAR_CONFLICTS, item, found.conflicts)
        return {"unseen": found.unseen}

    def _write(self, folder: str, item: int, found: Any) -> None:
        place = item_file(self.work, folder, item, "bin")
        write_spill(place, found, found["partition"], self.num_partitions)


def record_type(*, is_labelled: bool) -> Any:
    """The dtype of a document in a band."""
    return LABELLED_RECORD if is_labelled else RECORD


def bands_file(work: Location, band: int, partition: int) -> Location:
    """The documents of one partition in one band."""
    return item_file(work, f"band-{band:03d}", partition, "bin")
