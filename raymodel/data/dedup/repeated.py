"""Lines and paragraphs that stand in many documents, such as menus and notices: counted over all
documents by a number for the words of each, and taken out of every one.

Which of them are common is told to each partition by itself, so that no task holds more of them
than its own documents have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raymodel.data.clean import reason_to_drop
from raymodel.data.dedup.drops import EMPTIED_COLUMN, STRIPPED, Drops
from raymodel.data.dedup.spec import RepeatedSpec
from raymodel.data.dedup.spill import read_spills, write_spill
from raymodel.data.dedup.words import batches, whole_of, words_of
from raymodel.data.spec import CleanSpec
from raymodel.data.step import OfBuckets, OfPartitions, bucket_of, item_file, write_table
from raymodel.storage.uri import Location

UNIT = np.dtype([("hash", "<u8"), ("documents", "<u4"), ("partition", "<i4")])
"""What a partition tells of one unit."""
_HASH = np.dtype("<u8")
_PLACED = np.dtype([("owner", "<i8"), ("part", "<i8"), ("hash", "<u8")])
_COUNTED, _COMMON = "units-counted", "units-common"  # folders
_PARTED_BY = {"line": re.compile(r"(\n)"), "paragraph": re.compile(r"(\n[^\S\n]*\n\s*)")}
_TEXT = "value:text"  # the only role of what is packed


@dataclass(frozen=True, kw_only=True)
class UnitStep(OfPartitions):
    """Documents → in how many of them each unit stands, one item a partition."""

    work: Location
    spec: RepeatedSpec
    num_buckets: int
    drops: Drops
    name: str = "units"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        table = self.drops.read(self.work, item)
        texts = table[_TEXT].filter(pa.array(self.drops.stays(self.work, item, table.num_rows)))
        found = [np.empty(0, _HASH)]
        for units in unit_batches(texts.to_pylist(), self.spec):
            order = np.lexsort((units["owner"], units["hash"]))
            found.append(units["hash"][order][_is_new(units[order])])
        hashes, documents = np.unique(np.concatenate(found), return_counts=True)
        records = np.zeros(len(hashes), UNIT)
        records["hash"], records["documents"], records["partition"] = hashes, documents, item
        buckets = bucket_of(hashes, self.num_buckets)
        write_spill(item_file(self.work, _COUNTED, item, "bin"), records, buckets, self.num_buckets)
        return {"units": len(hashes)}


@dataclass(frozen=True, kw_only=True)
class CommonStep(OfBuckets):
    """Counts of units → those that stand in too many documents, one item a bucket."""

    work: Location
    spec: RepeatedSpec
    name: str = "common"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        partitions = range(self.num_partitions)
        places = [item_file(self.work, _COUNTED, part, "bin") for part in partitions]
        records = read_spills(places, item, self.num_buckets, UNIT)
        records = records[np.argsort(records["hash"], kind="stable")]
        _, unit, counts = np.unique(records["hash"], return_inverse=True, return_counts=True)
        starts = np.cumsum(counts) - counts
        documents = np.add.reduceat(records["documents"].astype(np.int64), starts)
        common = (documents > self.spec.max_documents)[unit]
        place = item_file(self.work, _COMMON, item, "bin")
        write_spill(
            place, records["hash"][common], records["partition"][common], self.num_partitions
        )
        return {"units": int((documents > self.spec.max_documents).sum())}


@dataclass(frozen=True, kw_only=True)
class StripStep(OfPartitions):
    """Documents → the same without their common units, one item a partition."""

    work: Location
    clean: CleanSpec
    num_buckets: int
    drops: Drops
    name: str = "strip"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        assert self.clean.repeated is not None, "the caller looked"
        table = self.drops.read(self.work, item)
        stays = self.drops.stays(self.work, item, table.num_rows)
        buckets = range(self.num_buckets)
        places = [item_file(self.work, _COMMON, bucket, "bin") for bucket in buckets]
        common = read_spills(places, item, len(self.partitions), _HASH)
        before = table[_TEXT].to_pylist()
        after, removed = list(before), 0
        if len(common):
            for units in unit_batches(before, self.clean.repeated):
                units = units[np.isin(units["hash"], common) & stays[units["owner"]]]
                removed += len(units)
                for owner, parts in _parts_by_owner(units):
                    after[owner] = _without(before[owner], parts, self.clean.repeated)
        changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        emptied = np.zeros(len(after), dtype=bool)
        for index in changed:
            emptied[index] = reason_to_drop([after[index]], self.clean) is not None
        place = table.schema.get_field_index(_TEXT)
        table = table.set_column(place, _TEXT, pa.array(after, pa.large_string()))
        write_table(
            item_file(self.work, STRIPPED, item),
            table.append_column(EMPTIED_COLUMN, pa.array(emptied)),
        )
        chars = sum(len(before[index]) - len(after[index]) for index in changed)
        return {"documents": len(changed), "removed": removed, "chars": chars}


def unit_batches(texts: Sequence[str], spec: RepeatedSpec) -> Iterator[Any]:
    """The units of documents that may be taken out, those of some documents at a time.

    Yields: of each the document that it is of (`owner`), which of the document's units it is
    (`part`), and a number for its words (`hash`), in their order. Those without words are not here.
    """
    for part in batches([[text] for text in texts]):
        pieces, owners, places = list[str](), list[int](), list[int]()
        for owner in range(part.start, part.stop):
            for place, piece in enumerate(_PARTED_BY[spec.unit].split(texts[owner])[::2]):
                if len(piece.strip()) >= spec.min_chars:
                    pieces.append(piece)
                    owners.append(owner)
                    places.append(place)
        units = np.zeros(len(pieces), _PLACED)
        units["owner"], units["part"] = owners, places
        units["hash"], has_words = whole_of(words_of(pieces))
        yield units[has_words]


def _without(text: str, parts: set[int], spec: RepeatedSpec) -> str:
    """A text without some of its units, each with what parts it from the next."""
    pieces = _PARTED_BY[spec.unit].split(text)
    kept = [i for i in range(0, len(pieces), 2) if i // 2 not in parts]
    return "".join("".join(pieces[i : i + 2]) for i in kept)


def _parts_by_owner(units: Any) -> Iterator[tuple[int, set[int]]]:
    for owner in np.unique(units["owner"]).tolist():
        low, high = np.searchsorted(units["owner"], [owner, owner + 1])
        yield owner, set(units["part"][low:high].tolist())


def _is_new(units: Any) -> Any:
    """Of sorted units, the first of each in a document."""
    found = np.ones(len(units), dtype=bool)
    found[1:] = (units["hash"][1:] != units["hash"][:-1]) | (
        units["owner"][1:] != units["owner"][:-1]
    )
    return found
