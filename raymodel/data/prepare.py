"""From sources to a dataset: the steps in order, whoever executes them.

The caller gives `execute`, which does the missing items of a step, in this process or on a
cluster. An interrupted run goes on where it stopped; when the dataset is whole, the work folder
with all intermediate files is deleted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raymodel.data.account import first_rejects
from raymodel.data.plan import (
    ShardPlan,
    plan_buckets,
    plan_partition_bytes,
    plan_shards,
)
from raymodel.data.read import slice_files
from raymodel.data.rows import RowKind, SavedTokenizer
from raymodel.data.shard_format import PartContent, ShardRecord, write_index
from raymodel.data.sources import SourceFiles, resolve_source
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.steps import (
    SPLITS,
    DedupStep,
    Partition,
    ReadStep,
    RowStep,
    ShardItem,
    ShardStep,
    Step,
    TokenizerStep,
    rows_file,
)
from raymodel.data.tokenizer import (
    TokenizerContent,
    describe_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

Execute = Callable[[Step], None]
Say = Callable[[str], None]

_MEAN_DOCUMENT_BYTES = 512  # for the number of deduplication tasks; being wrong costs memory only
_READ_THREADS = 16  # hides the latency of object stores while summaries are read


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the dataset, besides the bytes of the sources."""

    sources: tuple[SourceSpec, ...]
    clean: CleanSpec
    holdout: float
    seed: int
    kind: RowKind
    tokenizer: TokenizerSpec | Location
    """How to get the tokenizer, or the folder of the base model's."""
    sequence_length: int | None = None
    task: str | None = None


def prepare_dataset(
    recipe: Recipe, place: Location, execute: Execute, say: Say, base_dir: Path | None = None
) -> dict[str, Any]:
    """Makes the dataset at `place` and returns the `content` of its manifest.

    Raises:
        SourceError: a source is missing, or nothing of it is left after cleaning.
    """
    finished = place / "data/dataset.json"
    if not finished.exists():
        finished.write_json(_Preparation(recipe, place, execute, say).run(base_dir))
    (place / "work").delete_tree()
    content: dict[str, Any] = finished.read_json()
    return content


class _Preparation:
    """One run over the steps."""

    def __init__(self, recipe: Recipe, place: Location, execute: Execute, say: Say) -> None:
        self._recipe, self._place, self._execute, self._say = recipe, place, execute, say
        self._work, self._tokenizer = place / "work", place / "data/tokenizer"

    def run(self, base_dir: Path | None) -> dict[str, Any]:
        found = [resolve_source(source, base_dir) for source in self._recipe.sources]
        partitions = _plan_partitions(self._recipe.sources, found)
        total_bytes = sum(files.total_bytes for files in found)
        num_files = sum(len(files.files) for files in found)
        self._say(f"reading {num_files:,} files, {total_bytes / 1e6:,.1f} MB")
        read = self._read_step(found, partitions, total_bytes)
        documents = self._do(read)
        rejects = first_rejects(reject for each in documents for reject in each["rejects"])
        lines = (json.dumps(reject, ensure_ascii=False) for reject in rejects)
        (self._place / "data/rejects.jsonl").write_text("".join(line + "\n" for line in lines))
        left_out, labels = self._check_documents(documents)
        duplicates = self._drop_duplicates(read)
        tokenizer = self._make_tokenizer(len(partitions))
        rows = RowStep(
            work=self._work,
            partitions=partitions,
            sources=self._recipe.sources,
            kind=self._recipe.kind,
            tokenizer=SavedTokenizer(self._tokenizer, tokenizer),
            labels=labels,
            num_buckets=read.num_buckets,
        )
        splits = self._write_shards(partitions, self._do(rows))
        return {
            "kind": "dataset",
            "task": self._recipe.task,
            "labels": list(labels),
            "tokens": sum(split["tokens"] for split in splits.values()),
            "sequence_length": self._recipe.sequence_length,
            "tokenizer": asdict(tokenizer),
            "splits": splits,
            "read": sum(summary["read"] for summary in documents),
            "duplicates": duplicates,
            "left_out": dict(sorted(left_out.items())),
        }

    def _do(self, step: Step) -> list[dict[str, Any]]:
        """Executes a step and returns the summaries of all its items."""
        self._execute(step)
        files = [self._work / step.name / f"{item:07d}.json" for item in range(step.num_items)]
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            return list(pool.map(Location.read_json, files))

    def _read_step(
        self, found: Sequence[SourceFiles], partitions: tuple[Partition, ...], total_bytes: int
    ) -> ReadStep:
        recipe, tokenizer = self._recipe, self._recipe.tokenizer
        sample = 0.0
        if isinstance(tokenizer, TokenizerSpec):
            sample = tokenizer.sample_chars / total_bytes
        num_buckets = plan_buckets(total_bytes // _MEAN_DOCUMENT_BYTES)
        return ReadStep(
            work=self._work,
            partitions=partitions,
            sources=recipe.sources,
            roots=tuple(files.root for files in found),
            kind=recipe.kind,
            seed=recipe.seed,
            holdout=recipe.holdout,
            sample_frac=min(1.0, sample),
            num_buckets=num_buckets if recipe.clean.dedup == "exact" else 0,
        )

    def _check_documents(
        self, summaries: list[dict[str, Any]]
    ) -> tuple[Counter[str], tuple[str, ...]]:
        left_out: Counter[str] = Counter()
        for summary in summaries:
            left_out.update(summary["left_out"])
        if left_out:
            self._say(f"left out: {_reasons(left_out)}")
        if not any(summary["documents"] for summary in summaries):
            fields: list[str] = next((s["fields"] for s in summaries if s["fields"]), [])
            have = f"; the records have the fields {', '.join(fields)}" if fields else ""
            raise SourceError(
                f"no document of {', '.join(repr(s.path) for s in self._recipe.sources)} is left "
                f"({_reasons(left_out) or 'no records'}); at least one is needed{have}. "
                "Check `format`, `encoding`, the templates and `clean`"
            )
        if self._recipe.task is None:
            return left_out, ()
        values = [label for summary in summaries for label in summary["labels"]]
        return left_out, get_task(self._recipe.task)().labels_of(values)

    def _drop_duplicates(self, read: ReadStep) -> int:
        if not read.num_buckets:
            return 0
        step = DedupStep(
            work=self._work, num_buckets=read.num_buckets, num_partitions=len(read.partitions)
        )
        duplicates: int = sum(summary["duplicates"] for summary in self._do(step))
        if duplicates:
            self._say(f"dropped {duplicates:,} exact duplicates")
        return duplicates

    def _make_tokenizer(self, num_partitions: int) -> TokenizerContent:
        tokenizer = self._recipe.tokenizer
        if isinstance(tokenizer, TokenizerSpec):
            assert tokenizer.vocab_size is not None, "a tokenizer to load comes as its folder"
            step = TokenizerStep(
                work=self._work,
                output=self._tokenizer,
                num_partitions=num_partitions,
                vocab_size=tokenizer.vocab_size,
                sample_chars=tokenizer.sample_chars,
            )
            (summary,) = self._do(step)
            self._say(
                f"trained a tokenizer of {summary['vocab_size']:,} tokens "
                f"on {summary['characters'] / 1e6:,.1f} M characters"
            )
        else:
            save_tokenizer(load_tokenizer(tokenizer), self._tokenizer)
        content = describe_tokenizer(self._place, "data/tokenizer")
        if content.end_of_text is None and self._recipe.sequence_length is not None:
            raise SourceError(
                f"the tokenizer {tokenizer} has no end-of-text token; documents are packed with "
                "one between them. Set `eos_token` in its tokenizer_config.json"
            )
        return content

    def _write_shards(
        self, partitions: Sequence[Partition], summaries: list[dict[str, Any]]
    ) -> dict[str, Any]:
        plans = list(_plan_parts(partitions, summaries))
        if not any(part.split == "train" for part in plans):
            raise SourceError(
                f"no training rows are left with a holdout of {self._recipe.holdout:g}; "
                "at least one is needed. Lower `holdout`, or give more data"
            )
        step = ShardStep(
            work=self._work,
            shards=tuple(item for part in plans for item in part.shards(self._place, self._work)),
        )
        records = iter([ShardRecord(**summary) for summary in self._do(step)])
        splits: dict[str, Any] = {split: [] for split in SPLITS}
        for part in plans:
            shards = [next(records) for _ in range(part.plan.num_shards)]
            write_index(self._place / part.folder, shards)
            source = self._recipe.sources[part.source_index]
            splits[part.split].append(asdict(part.content(source, shards)))
        for split, parts in splits.items():
            rows, tokens = sum(p["rows"] for p in parts), sum(p["tokens"] for p in parts)
            shards_in_all = sum(part["shards"] for part in parts)
            self._say(f"{split}: {rows:,} rows, {tokens:,} tokens, {shards_in_all} shards")
        return {split: _totals(parts) for split, parts in splits.items()}


_COUNTS = ("rows", "tokens", "documents", "text_bytes")


def _totals(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {**{name: sum(part[name] for part in parts) for name in _COUNTS}, "parts": parts}


def _reasons(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} × {reason}" for reason, count in sorted(left_out.items()))


@dataclass(frozen=True)
class _PartPlan:
    """One source's rows in one split: which partitions hold them, and the shards to make."""

    split: str
    source_index: int
    partition_rows: tuple[tuple[int, int], ...]
    """(partition, its rows), in source order."""
    totals: dict[str, int]
    plan: ShardPlan

    @property
    def folder(self) -> str:
        return f"data/{self.split}/part-{self.source_index:03d}"

    def shards(self, place: Location, work: Location) -> Iterator[ShardItem]:
        for shard_index in range(self.plan.num_shards):
            start, stop = self.plan.shard_rows(shard_index)
            yield ShardItem(
                place / self.folder,
                shard_index,
                self.plan.rows_per_block,
                tuple(self._pieces(work, start, stop)),
            )

    def _pieces(self, work: Location, start: int, stop: int) -> Iterator[tuple[Location, int, int]]:
        first = 0
        for partition, rows in self.partition_rows:
            low, high = max(start, first), min(stop, first + rows)
            if low < high:
                yield rows_file(work, self.split, partition), low - first, high - first
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


def _plan_partitions(
    sources: Sequence[SourceSpec], found: Sequence[SourceFiles]
) -> tuple[Partition, ...]:
    partition_bytes = plan_partition_bytes(sum(files.total_bytes for files in found))
    return tuple(
        Partition(source_index, tuple(pieces))
        for source_index, (source, files) in enumerate(zip(sources, found, strict=True))
        for pieces in slice_files(files, source, partition_bytes)
    )


def _plan_parts(
    partitions: Sequence[Partition], summaries: Sequence[dict[str, Any]]
) -> Iterator[_PartPlan]:
    for split in SPLITS:
        for source_index in sorted({partition.source_index for partition in partitions}):
            own = [
                (item, summaries[item][split])
                for item, partition in enumerate(partitions)
                if partition.source_index == source_index
            ]
            totals: Counter[str] = Counter()
            for _, counts in own:
                totals.update(counts)
            if totals["rows"]:
                plan = plan_shards(totals["rows"], totals["memory_bytes"] / totals["rows"])
                rows = tuple((item, counts["rows"]) for item, counts in own)
                yield _PartPlan(split, source_index, rows, dict(totals), plan)
