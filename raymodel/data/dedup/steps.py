"""The steps that find near-duplicates: sketches of documents, and who meets whom in a band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymodel.data.clean import text_hash
from raymodel.data.dedup.drops import NEAR_CONFLICTS, NEAR_DUPLICATES, Drops
from raymodel.data.dedup.likeness import Likeness
from raymodel.data.dedup.near import find_near, record_type
from raymodel.data.dedup.spill import read_spills, write_spill
from raymodel.data.document import value_column
from raymodel.data.step import SPLITS, OfPartitions, OfResults, bucket_of, item_file
from raymodel.storage.uri import Location


@dataclass(frozen=True, kw_only=True)
class SketchStep(OfPartitions):
    """Documents → their sketches in each band, one item a partition."""

    work: Location
    label_role: str | None
    """The role whose values can contradict one another."""
    likeness: Likeness
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
        for band in range(self.likeness.bands):
            records["key"] = keys[:, band]
            buckets = bucket_of(records["key"], self.num_buckets)
            write_spill(bands_file(self.work, band, item), records, buckets, self.num_buckets)
        return {"documents": len(records)}

    def _sketched(self, table: pa.Table, places: Any, item: int) -> tuple[Any, Any]:
        """The keys of each document of which anything can be told, and its record without one."""
        keys = [np.empty((0, self.likeness.bands), np.uint64)]
        records = [np.empty(0, self._dtype)]
        for found in self.likeness.sketched(table, places):
            record = np.zeros(len(found.places), self._dtype)
            record["partition"], record["index"] = item, found.places
            record["sketch"] = found.sketches
            if self.label_role is not None:
                self._mark(record, table.take(pa.array(found.places)), self.label_role)
            keys.append(found.keys)
            records.append(record)
        return np.concatenate(keys), np.concatenate(records)

    def _mark(self, records: Any, documents: pa.Table, role: str) -> None:
        labels = documents[value_column(role)].to_pylist()
        records["label"] = [text_hash(str(label)) for label in labels]
        groups = b"".join(documents["group"].to_pylist())
        records["group"] = np.frombuffer(groups, dtype=np.uint8).reshape(len(records), -1)
        records["split"] = [SPLITS.index(split) for split in documents["split"].to_pylist()]

    @property
    def _dtype(self) -> Any:
        return record_type(self.likeness.words, is_labelled=self.label_role is not None)


@dataclass(frozen=True, kw_only=True)
class NearStep(OfResults):
    """Sketches → which documents are near to an earlier one, one item a bucket of a band."""

    work: Location
    likeness: Likeness
    num_buckets: int
    """Of each band."""
    num_partitions: int
    is_labelled: bool
    name: str = "near"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return self.likeness.bands * self.num_buckets

    def run(self, item: int) -> dict[str, Any]:
        band, bucket = divmod(item, self.num_buckets)
        dtype = record_type(self.likeness.words, is_labelled=self.is_labelled)
        places = [bands_file(self.work, band, part) for part in range(self.num_partitions)]
        records = read_spills(places, bucket, self.num_buckets, dtype)
        found = find_near(records, self.likeness.are_near)
        self._write(NEAR_DUPLICATES, item, found.duplicates)
        if self.is_labelled:
            self._write(NEAR_CONFLICTS, item, found.conflicts)
        return {"unseen": found.unseen}

    def _write(self, folder: str, item: int, found: Any) -> None:
        place = item_file(self.work, folder, item, "bin")
        write_spill(place, found, found["partition"], self.num_partitions)


def bands_file(work: Location, band: int, partition: int) -> Location:
    """The documents of one partition in one band."""
    return item_file(work, f"band-{band:03d}", partition, "bin")
