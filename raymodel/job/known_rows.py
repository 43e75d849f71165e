"""What is known of the rows of a training stage before it runs: how many, how long, of which ids.

Exact where a dataset is complete; else an estimate from the sources, which says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.sources import find_tokenizer, resolve_source
from raymodel.data.spec import PrepareSpec, TokenizerSpec
from raymodel.errors import NotPlannedError, RaymodelError
from raymodel.job.progress import Progress
from raymodel.modality import processor_of
from raymodel.observe.text import many
from raymodel.tasks import make_task
from raymodel.tasks.base import Task
from raymodel.train.plan import TrainPlan, plan_training
from raymodel.train.spec import FinetuneSpec, TrainSpec

BYTES_PER_TOKEN = 4.0
"""Of raw text, for an estimate before a tokenizer exists: about four characters of English
(https://platform.openai.com/tokenizer). Code and other languages have fewer."""


@dataclass(frozen=True, kw_only=True)
class KnownRows:
    """What is known of a stage's rows."""

    row_tokens: int
    """Of the longest row."""
    vocab_size: int
    rows_per_epoch: int | None
    tokens_per_row: float
    words: str
    modality: str = "text"
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of the processor, where more than text is read."""
    data: Mixture = ()
    """The complete datasets; none where the counts are an estimate."""

    @property
    def sizes(self) -> dict[str, int]:
        """Fields of a fresh model's configuration that follow from plain rows."""
        if self.modality == "text":
            return {"vocab_size": self.vocab_size, "max_position_embeddings": self.row_tokens}
        return {name: self.facts[name] for name in ("num_channels", "image_size")}

    def plan(self, spec: TrainSpec) -> TrainPlan | None:
        """None when the duration is in epochs, of which the length is not known."""
        amounts = (spec.duration, spec.checkpoint.every, spec.validate_every, spec.log_every)
        if self.rows_per_epoch is None and any(a and a.unit == "epochs" for a in amounts):
            return None
        return plan_training(
            spec, rows_per_epoch=self.rows_per_epoch or 1, tokens_per_row=self.tokens_per_row
        )


def plain_rows(
    spec: TrainSpec, prepare: PrepareSpec | None, progress: Progress, base_dir: Path
) -> KnownRows:
    """What pretraining reads.

    Args:
        prepare: of the same job.

    Raises:
        NotPlannedError: nothing tells how the rows will be.
    """
    if progress.data:
        content = progress.data[0].artifact.content
        known = _counted(spec, progress.data, content["sequence_length"] or 1)
        facts = content["processor"]
        return known if facts["modality"] == "text" else _whole(facts["modality"], facts, known)
    if prepare is None:
        why = progress.unknown.get("prepare", "no such dataset")
        raise NotPlannedError(f"nothing is known of pretrain.data ({why})")
    text = prepare.text
    if prepare.image is not None:
        return _whole("image", prepare.image.facts)
    assert text is not None, "the spec has one of the two"
    tokens, length = _estimate_tokens(prepare, base_dir), text.length
    rows = None if tokens is None else max(1, round(tokens / length))
    words = "not prepared, and its sources cannot be read from here"
    if rows is not None:
        words = f"an estimate, at {BYTES_PER_TOKEN:g} bytes of source a token"
    if rows is not None and rows < spec.global_batch:  # no reason to refuse before it is known
        words += f": {many(rows, 'row')}, which would not fill a step of {spec.global_batch}"
    return KnownRows(
        row_tokens=length,
        vocab_size=_vocab_size(text.tokenizer, base_dir),
        rows_per_epoch=rows,
        tokens_per_row=float(length),
        words=words,
    )


def example_rows(
    spec: FinetuneSpec, progress: Progress, before: KnownRows | None = None
) -> KnownRows:
    """What fine-tuning reads. Raises as `plain_rows`.

    Args:
        before: what the job's own pretraining reads, where the base is that.
    """
    task = make_task(spec.task)
    if task.modality != "text":
        return _files(spec, task, progress, before)
    artifact = progress.complete.get("examples")
    if artifact is not None:
        return _counted(spec, mixture_of(artifact), task.longest_row(spec.max_length))
    longest = task.longest_row(spec.max_length)
    return KnownRows(
        row_tokens=longest,
        vocab_size=0,  # that of the base
        rows_per_epoch=None,
        tokens_per_row=float(longest * spec.task.row_texts),
        words="not prepared: the longest examples are taken for all",
    )


def _files(
    spec: FinetuneSpec, task: Task, progress: Progress, before: KnownRows | None
) -> KnownRows:
    artifact = progress.complete.get("examples")
    processor = task.fresh_processor()
    if progress.base is not None:
        read = task.reading_as(progress.base.location)
        read.adapt_processor({})  # none but texts have files
        processor = read.processor
    facts = processor.facts() if processor is not None else before.facts if before else {}
    if not facts:
        why = progress.unknown.get("finetune", "it is not there")
        raise NotPlannedError(f"nothing is known of finetune.base ({why})")
    known = _counted(spec, mixture_of(artifact), 1) if artifact is not None else None
    return _whole(task.modality, facts, known)


def _whole(modality: str, facts: Mapping[str, Any], known: KnownRows | None = None) -> KnownRows:
    """Of rows that are a whole image or sound each, which counts as one of what throughput is
    measured in.

    Args:
        facts: of the processor.
        known: the counts of a complete dataset.
    """
    return KnownRows(
        row_tokens=1,
        vocab_size=0,
        rows_per_epoch=known.rows_per_epoch if known else None,
        tokens_per_row=1.0,
        words=known.words.replace("tokens", processor_of(modality).unit)
        if known
        else "not prepared: how many rows there are is not known",
        modality=modality,
        facts=facts,
        data=known.data if known else (),
    )


def _vocab_size(spec: TokenizerSpec, base_dir: Path) -> int:
    if spec.vocab_size is not None:
        return spec.vocab_size
    assert spec.load is not None, "the spec has exactly one of the two"
    place = find_tokenizer(spec.load, base_dir)
    content = (place / "tokenizer.json").read_json()
    added: list[int] = [token["id"] + 1 for token in content.get("added_tokens", ())]
    return max(len(content["model"]["vocab"]), *added, 0)


def _counted(spec: TrainSpec, data: Mixture, row_tokens: int) -> KnownRows:
    """The counts of complete datasets, as training itself takes them."""
    from raymodel.train.work import open_train

    dataset = open_train(spec, data)
    splits = [artifact.content["splits"]["train"] for artifact, _ in data]
    rows, tokens = (sum(split[name] for split in splits) for name in ("rows", "tokens"))
    marks = ", ".join(artifact.fingerprint for artifact, _ in data)
    return KnownRows(
        row_tokens=row_tokens,
        vocab_size=data[0].artifact.content["processor"].get("vocab_size", 0),
        rows_per_epoch=dataset.order(0, 1).rows_per_epoch,
        tokens_per_row=dataset.tokens_per_row,
        words=f"{rows:,} rows, {tokens:,} tokens ({marks})",
        data=data,
    )


def _estimate_tokens(prepare: PrepareSpec, base_dir: Path) -> float | None:
    try:
        sizes = [
            source.weight * resolve_source(source, base_dir).total_bytes
            for source in prepare.sources
        ]
    except (RaymodelError, OSError):
        return None
    return sum(sizes) * (1 - prepare.holdout) / BYTES_PER_TOKEN
