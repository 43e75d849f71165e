"""The parts of a dataset, one a source and split: where their rows are, and their shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raymodel.data.plan import ShardPlan, plan_partition_bytes, plan_shards
from raymodel.data.read import slice_files
from raymodel.data.shard_format import PartContent, ShardRecord
from raymodel.data.sources import SourceFiles
from raymodel.data.spec import SourceSpec
from raymodel.data.step import SPLITS, Partition, rows_file
from raymodel.data.steps import ShardItem
from raymodel.storage.uri import Location

_COUNTS = ("rows", "tokens", "documents", "num_bytes")
_SUMMED = (*_COUNTS, "memory_bytes")


@dataclass(frozen=True)
class PartPlan:
    """One source's rows in one split: which partitions hold them, and the shards to make."""

    split: str
    source_index: int
    files: tuple[tuple[Location, int], ...]
    """(file of rows, how many), in source order."""
    totals: dict[str, int]
    plan: ShardPlan

    @property
    def folder(self) -> str:
        return f"data/{self.split}/part-{self.source_index:03d}"

    def shards(self, place: Location) -> Iterator[ShardItem]:
        for shard_index in range(self.plan.num_shards):
            start, stop = self.plan.shard_rows(shard_index)
            yield ShardItem(
                place / self.folder,
                shard_index,
                self.plan.rows_per_block,
                tuple(self._pieces(start, stop)),
            )

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Location, int, int]]:
        first = 0
        for file, rows in self.files:
            low, high = max(start, first), min(stop, first + rows)
            if low < high:
                yield file, low - first, high - first
            first += rows

    def content(self, source: SourceSpec, shards: Sequence[ShardRecord]) -> PartContent:
        return PartContent(
            source=source.path,
            folder=self.folder,
            weight=source.weight,
            **{name: self.totals[name] for name in _COUNTS},
            shards=len(shards),
            shard_bytes=sum(shard.bytes for shard in shards),
            row_bytes=self.totals["memory_bytes"] / self.totals["rows"],
            rows_per_shard=self.plan.rows_per_shard,
            rows_per_block=self.plan.rows_per_block,
        )


def plan_partitions(
    sources: Sequence[SourceSpec], found: Sequence[SourceFiles]
) -> tuple[Partition, ...]:
    """Cuts all sources into what one task reads each, in their order."""
    partition_bytes = plan_partition_bytes(sum(files.total_bytes for files in found))
    return tuple(
        Partition(source_index, tuple(pieces))
        for source_index, (source, files) in enumerate(zip(sources, found, strict=True))
        for pieces in slice_files(files, source, partition_bytes)
    )


def plan_parts(
    partitions: Sequence[Partition], summaries: Sequence[dict[str, Any]], work: Location
) -> Iterator[PartPlan]:
    """The parts that have rows, from the summaries of the row step."""
    for split in SPLITS:
        for source_index in sorted({partition.source_index for partition in partitions}):
            own = [
                (item, summaries[item][split])
                for item, partition in enumerate(partitions)
                if partition.source_index == source_index
            ]
            totals = {name: sum(counts[name] for _, counts in own) for name in _SUMMED}
            if totals["rows"]:
                plan = plan_shards(totals["rows"], totals["memory_bytes"] / totals["rows"])
                files = tuple(
                    (rows_file(work, split, item), counts["rows"]) for item, counts in own
                )
                yield PartPlan(split, source_index, files, totals, plan)


def split_content(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the manifest says of a split, given its parts."""
    return {**{name: sum(part[name] for part in parts) for name in _COUNTS}, "parts": parts}
