"""From sources to a dataset: the steps in order, whoever executes them.

The caller gives `execute`, which does the missing items of a step, in this process or on a
cluster. An interrupted run goes on where it stopped; when the dataset is whole, the work folder
with all intermediate files is deleted.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raymodel.data.account import RECORDS
from raymodel.data.card.plots import share_text
from raymodel.data.card.profile import Profile
from raymodel.data.card.save import CARD_PAGE, save_card
from raymodel.data.clean import asked_for
from raymodel.data.compare import compare, compared_content, reasons_to_compare
from raymodel.data.ledger import Ledger
from raymodel.data.paraphrases import (
    ParaphraseStep,
    counts_of,
    plan_paraphrases,
    with_paraphrases,
)
from raymodel.data.parts import PartPlan, plan_partitions, plan_parts, split_content
from raymodel.data.plan import plan_buckets
from raymodel.data.read_step import ReadStep
from raymodel.data.references import (
    AskedBase,
    ReferenceStep,
    plan_references,
    with_references,
)
from raymodel.data.rows import RowKind, SavedProcessor
from raymodel.data.shard_format import ShardRecord, write_index
from raymodel.data.sides import Sides
from raymodel.data.sources import SourceFiles, resolve_source
from raymodel.data.spec import MAX_LEFT_OUT, CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import SPLITS, Partition, Step
from raymodel.data.steps import RowStep, ShardStep
from raymodel.data.tokenizer_step import TokenizerStep, lost_text
from raymodel.errors import SourceError
from raymodel.modality.base import Processor
from raymodel.modality.text import TextProcessor
from raymodel.observe.text import duration_text, many
from raymodel.storage.uri import Location, sha256
from raymodel.tasks.fields import reference_of

PROCESSOR = "data/processor"
"""Its folder in a dataset."""
REJECTS = "data/rejects.jsonl"
"""Samples of what was left out, by reason, with file and line; there when anything was."""

Execute = Callable[[Step], None]
Say = Callable[[str], None]

_MEAN_DOCUMENT_BYTES = 512  # for the number of deduplication tasks; being wrong costs memory only
_MAX_LABELS = 10_000  # more than this is a text field, not a label
_LABELS_SHOWN = 8
_READ_THREADS = 16  # hides the latency of object stores while summaries are read
_READ_SUMMARIES = 256  # at a time: their profiles are most of them


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the dataset, besides the bytes of the sources."""

    sources: tuple[SourceSpec, ...]
    clean: CleanSpec
    holdout: float
    seed: int
    kind: RowKind
    reads: type[Processor] = TextProcessor
    processor: TokenizerSpec | Location | Processor
    """How to get the processor: the folder that holds it, a tokenizer to train, or itself."""
    adapt: Callable[[Processor], Processor] | None = None
    """Makes of a tokenizer that was trained the one that the rows are made with; else it is."""
    max_left_out: float = MAX_LEFT_OUT
    """A share; see `PrepareSpec`."""
    base: AskedBase | None = None
    """Where the task wants to know what it makes of the examples."""


def prepare_dataset(
    recipe: Recipe, place: Location, execute: Execute, say: Say, base_dir: Path | None = None
) -> dict[str, Any]:
    """Makes the dataset at `place` and returns the `content` of its manifest.

    Raises:
        SourceError: a source is missing, or too little of it is left after cleaning.
        AccountError: a record that was read is neither in a row nor known to be left out.
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
        kind = replace(recipe.kind, sources=recipe.sources)
        self._recipe = replace(recipe, kind=kind, clean=recipe.clean.with_lists())
        self._place = place
        self._execute, self._say = execute, say
        self._work, self._processor = place / "work", place / PROCESSOR
        self._asked_for = asked_for(recipe.clean) | reasons_to_compare(recipe.clean)
        self._ledger = Ledger([source.path for source in recipe.sources])
        self._profiles = [Profile() for _ in recipe.sources]
        self._partitions: tuple[Partition, ...] = ()

    def run(self, base_dir: Path | None) -> dict[str, Any]:
        found = [resolve_source(source, base_dir) for source in self._recipe.sources]
        for note in (note for files in found for note in files.notes):
            self._say(note)
        partitions = self._partitions = plan_partitions(self._recipe.sources, found)
        total_bytes = sum(files.total_bytes for files in found)
        num_files = sum(len(files.files) for files in found)
        self._say(f"reading {num_files:,} files, {total_bytes / 1e6:,.1f} MB")
        read = self._read_step(found, partitions, total_bytes)
        documents = self._do(read)
        labels = self._check_documents(partitions, documents)
        for line in self._ledger.found:
            self._say(line)
        sides = Sides()
        for summary in documents:
            sides.add_summary(summary["sides"])
        num_documents = sum(summary["documents"] for summary in documents)
        compared = compare(read, num_documents, self._do, self._say, base_dir)
        processor = self._make_processor(len(partitions))
        step = RowStep(
            work=self._work,
            partitions=partitions,
            sources=self._recipe.sources,
            kind=self._recipe.kind,
            processor=processor,
            labels=labels,
            drops=compared.drops,
            moves=sides.moves(),
        )
        rows = self._do(step)
        self._close_account(partitions, rows, compared.duplicates)
        near_conflicts = sum(summary["near_conflicts"] for summary in rows)
        common = compared_content(compared, self._ledger, near_conflicts, self._say)
        classes = _count_labels(rows)
        self._tell_classes(labels, classes)
        parts = self._plan_parts(partitions, rows)
        parts, paraphrases = self._paraphrase(parts, processor)
        slow = list[dict[str, str]]()
        if self._recipe.base is not None:
            parts, slow = self._ask_base(parts, self._recipe.base)
        splits, kind = self._write_shards(parts), self._recipe.kind
        content = {
            "kind": "dataset",
            "task": kind.task and kind.task.name,
            "labels": list(labels),
            "classes": classes,
            "tokens": sum(split["tokens"] for split in splits.values()),
            "sequence_length": kind.length if kind.is_packed else None,
            "processor": {
                "modality": self._recipe.reads.modality,
                "folder": PROCESSOR,
                "sha256": sha256(self._processor / self._recipe.reads.file),
                **processor.facts,
            },
            "splits": splits,
            "read": self._ledger.read,
            "duplicates": compared.duplicates,
            "left_out": self._ledger.left_out,
            "changed": self._ledger.changed,
            "cut": _cut(rows),
            "label_conflicts": compared.conflicts,
            "card": CARD_PAGE,
            **common,
            **({"paraphrases": paraphrases} if paraphrases else {}),
            **({"slow_paths": slow} if slow else {}),
        }
        places = [partition.source_index for partition in partitions]
        save_card(
            self._place,
            content,
            self._recipe.sources,
            self._ledger,
            places,
            self._profiles,
            documents,
            rows,
        )
        return content

    def _do(self, step: Step) -> list[dict[str, Any]]:
        """Executes a step and returns the summaries of all its items, but for the profiles of
        partitions: those of a source become one."""
        self._execute(step)
        files = [self._work / step.name / f"{item:07d}.json" for item in range(step.num_items)]
        summaries = list[dict[str, Any]]()
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for start in range(0, len(files), _READ_SUMMARIES):
                for summary in pool.map(Location.read_json, files[start : start + _READ_SUMMARIES]):
                    # Not there in work that was begun before there were cards.
                    if profile := summary.pop("profile", None):
                        source = self._partitions[len(summaries)].source_index
                        self._profiles[source].merge(profile)
                    summaries.append(summary)
        return summaries

    def _read_step(
        self, found: Sequence[SourceFiles], partitions: tuple[Partition, ...], total_bytes: int
    ) -> ReadStep:
        recipe, processor = self._recipe, self._recipe.processor
        sample = 0.0
        if isinstance(processor, TokenizerSpec):
            sample = processor.sample_chars / total_bytes
        num_buckets = plan_buckets(total_bytes // _MEAN_DOCUMENT_BYTES)
        compares = recipe.clean.dedup.name != "none" or recipe.kind.label_role is not None
        return ReadStep(
            work=self._work,
            partitions=partitions,
            sources=recipe.sources,
            roots=tuple(files.root for files in found),
            kind=recipe.kind,
            clean=recipe.clean,
            seed=recipe.seed,
            holdout=recipe.holdout,
            sample_frac=min(1.0, sample),
            num_buckets=num_buckets if compares else 0,
        )

    def _check_documents(
        self, partitions: Sequence[Partition], summaries: list[dict[str, Any]]
    ) -> tuple[str, ...]:
        """Enough of what was read is left to go on; returns the names of the labels, in order."""
        for partition, summary in zip(partitions, summaries, strict=True):
            self._ledger.add(partition.source_index, summary["account"])
            summary["account"]["rejects"].clear()  # the ledger has those to be shown
        self._write_rejects()
        if not any(summary["documents"] for summary in summaries):
            fields: list[str] = next((s["fields"] for s in summaries if s["fields"]), [])
            have = f"; the records have the fields {', '.join(fields)}" if fields else ""
            raise SourceError(
                f"no document of {', '.join(repr(s.path) for s in self._recipe.sources)} is left "
                f"({_counts(self._ledger.left_out) or 'no records'}); at least one is needed"
                f"{have}. Check `format`, `encoding`, the templates and `clean`{self._see()}"
            )
        self._ledger.check_share(self._recipe.max_left_out, self._asked_for, self._see())
        role, kind = self._recipe.kind.class_role, self._recipe.kind
        if kind.task is not None and kind.task.named_classes:
            return kind.task.named_classes
        labels = sorted({label for summary in summaries for label in summary["labels"]})
        if role is not None and not labels:
            raise SourceError(
                f"no record has a class in its `{role}`; at least one is needed. Check `fields` "
                "and `label_separator`"
            )
        if len(labels) > _MAX_LABELS:
            assert role is not None, "only a label has values"
            named = {repr(reference_of(s, role, kind.fields[role])) for s in self._recipe.sources}
            raise SourceError(
                f"the label {', '.join(sorted(named))} has {len(labels):,} different values, such "
                f"as {labels[0]!r} and {labels[1]!r}; a label has at most {_MAX_LABELS:,}. Name "
                "the field that holds the class"
            )
        return tuple(labels)

    def _close_account(
        self, partitions: Sequence[Partition], summaries: list[dict[str, Any]], duplicates: int
    ) -> None:
        """Says what became of every record, and stops if it does not add up or is too little."""
        for partition, summary in zip(partitions, summaries, strict=True):
            self._ledger.add(partition.source_index, summary["account"], met_before=True)
            summary["account"]["rejects"].clear()
        self._write_rejects()
        documents = {split: sum(s[split]["documents"] for s in summaries) for split in SPLITS}
        self._say(self._ledger.check_balance(documents, duplicates))
        if left_out := self._ledger.left_out:
            self._say(f"left out: {_counts(left_out)}{self._see()}")
        for step, counts in self._ledger.changed.items():
            self._say(_changed(step, counts))
        if unknown := _unknown(self._profiles):
            self._say(unknown)
        if cut := _cut(summaries):
            self._say(f"cut, since they were too long: {_counts(cut)}")
        self._ledger.check_share(self._recipe.max_left_out, self._asked_for, self._see())

    def _write_rejects(self) -> None:
        kept = ({k: v for k, v in each.items() if k != "image"} for each in self._ledger.rejects)
        lines = (json.dumps(reject, ensure_ascii=False) for reject in kept)
        if self._ledger.rejects:
            (self._place / REJECTS).write_text("".join(line + "\n" for line in lines))

    def _see(self) -> str:
        return f". Samples: {self._place / REJECTS}" if self._ledger.rejects else ""

    def _tell_classes(self, labels: Sequence[str], classes: dict[str, dict[str, int]]) -> None:
        """Says which classes cannot be learnt, or not be measured."""
        train = classes["train"]
        unseen = [label for label in labels if not train.get(label)]
        single = [label for label in labels if train.get(label) == 1]
        for found, what in ((unseen, "no example"), (single, "a single example")):
            if found:
                self._say(
                    f"warning: {len(found):,} of {len(labels):,} labels have {what} to train on: "
                    f"{', '.join(map(repr, found[:_LABELS_SHOWN]))}"
                    f"{', …' if len(found) > _LABELS_SHOWN else ''}"
                )

    def _make_processor(self, num_partitions: int) -> SavedProcessor:
        found, kind = self._recipe.processor, self._recipe.kind
        if isinstance(found, TokenizerSpec):
            step = TokenizerStep(
                work=self._work,
                output=self._processor,
                num_partitions=num_partitions,
                spec=found,
            )
            started = time.monotonic()
            (summary,) = self._do(step)
            self._say(
                f"trained a tokenizer of {summary['vocab_size']:,} tokens on "
                f"{summary['characters'] / 1e6:,.1f} M characters in "
                f"{duration_text(time.monotonic() - started)}"
            )
            if lost := lost_text(summary):
                self._say(lost)
            step.processor().save(self._processor)
            if self._recipe.adapt is not None:
                self._recipe.adapt(self._recipe.reads.load(self._processor)).save(self._processor)
        elif isinstance(found, Location):
            self._recipe.reads.load(found).save(self._processor)
        else:
            found.save(self._processor)
        facts = self._recipe.reads.load(self._processor).facts()
        if kind.is_packed and facts["end_of_text"] is None:
            raise SourceError(
                f"the tokenizer {found} has no end-of-text token; documents are packed with "
                "one between them. Set `eos_token` in its tokenizer_config.json"
            )
        return SavedProcessor(place=self._processor, facts=facts)

    def _plan_parts(
        self, partitions: Sequence[Partition], summaries: list[dict[str, Any]]
    ) -> list[PartPlan]:
        plans = list(plan_parts(partitions, summaries, self._work))
        if not any(part.split == "train" for part in plans):
            left_out = _counts(self._ledger.left_out)
            raise SourceError(
                f"no training rows are left with a holdout of {self._recipe.holdout:g}"
                f"{f' ({left_out} left out)' if left_out else ''}; at least one is needed. Lower "
                f"`holdout`, or give more data{self._see()}"
            )
        if self._recipe.holdout and all(part.split == "train" for part in plans):
            self._say(
                f"warning: nothing is held out with a holdout of {self._recipe.holdout:g}, so "
                "there is nothing to validate and evaluate on. Raise `holdout`, or give more data"
            )
        return plans

    def _paraphrase(
        self, parts: list[PartPlan], processor: SavedProcessor
    ) -> tuple[list[PartPlan], dict[str, Any] | None]:
        """The texts of what is trained on in other words, beside them; and how many that are. None
        where the job asks for none."""
        kind = self._recipe.kind
        spec = kind.task.back_translation if kind.task is not None else None
        if spec is None:
            return parts, None
        step = ParaphraseStep(
            work=self._work,
            runs=plan_paraphrases(parts),
            kind=kind,
            processor=processor,
            spec=spec,
        )
        summaries = self._do(step)
        made, without = counts_of(summaries)
        self._say(f"{made:,} examples have a paraphrase")
        if without:
            self._say(f"without a paraphrase: {_counts(without)}")
        return list(with_paraphrases(parts, step, summaries)), {"made": made, "without": without}

    def _ask_base(
        self, parts: Sequence[PartPlan], base: AskedBase
    ) -> tuple[list[PartPlan], list[dict[str, str]]]:
        """What the base makes of every example, in its row; and the slow paths that it took."""
        assert self._recipe.kind.task is not None, "packed rows are asked nothing"
        step = ReferenceStep(
            work=self._work,
            runs=plan_references(parts),
            task=self._recipe.kind.task,
            base=base,
        )
        summaries = self._do(step)
        rows = sum(part.totals["rows"] for part in parts)
        self._say(f"the base has read {rows:,} examples")
        slow = {tuple(path.items()): path for each in summaries for path in each["slow_paths"]}
        return list(with_references(parts, step, summaries)), list(slow.values())

    def _write_shards(self, plans: Sequence[PartPlan]) -> dict[str, Any]:
        step = ShardStep(
            work=self._work,
            shards=tuple(item for part in plans for item in part.shards(self._place)),
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
            if split == "test" and not parts:
                continue  # most data has none
            unit = self._recipe.reads.unit
            self._say(f"{split}: {rows:,} rows, {tokens:,} {unit}, {shards_in_all} shards")
        return {split: split_content(parts) for split, parts in splits.items()}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} × {what}" for what, count in sorted(counts.items()))


def _changed(step: str, counts: Mapping[str, int]) -> str:
    """`changed by pii: 12 documents (7 × email, 5 × phone)`."""
    others = {what: count for what, count in counts.items() if what != RECORDS}
    told = f" ({_counts(others)})" if others else ""
    return f"changed by {step}: {many(counts[RECORDS], 'document')}{told}"


def _cut(summaries: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Role → documents whose text did not fit whole."""
    return dict(sorted(sum((Counter(s["cut"]) for s in summaries), Counter[str]()).items()))


def _unknown(profiles: Sequence[Profile]) -> str:
    """What of the texts is lost to the model; empty where the tokenizer knows everything."""
    unknown, among = (sum(each.sums[name] for each in profiles) for name in ("unknown", "known_by"))
    if not unknown:
        return ""
    return (
        f"the tokenizer does not know {share_text(unknown / among)} of what was read: "
        f"{unknown:,} of {among:,} tokens are unknown"
    )


def _count_labels(summaries: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Split → label → examples."""
    counts = {
        split: sum((Counter(s[split]["labels"]) for s in summaries), Counter[str]())
        for split in SPLITS
    }
    return {split: dict(sorted(labels.items())) for split, labels in counts.items()}
