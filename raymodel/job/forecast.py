"""`raymodel plan`: what a job will be, before it is run. Starts nothing; loads no torch and no Ray.

Exact where a dataset is complete; else an estimate from the sources, which says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from raymodel.cluster.devices import Fleet
from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.sources import find_tokenizer, resolve_source
from raymodel.data.spec import PrepareSpec
from raymodel.errors import (
    MissingArtifactError,
    MissingSourceError,
    NotPlannedError,
    RaymodelError,
    SpecError,
    StorageError,
    StorageUnavailableError,
)
from raymodel.job.preflight import Inputs, look_at_inputs, offered_to_own, question_of
from raymodel.job.progress import Progress
from raymodel.job.spec import Job
from raymodel.modality import processor_of
from raymodel.model.count import can_count
from raymodel.model.counted import CountedShape, Counting, Lengths, Shape, rows_of
from raymodel.model.examine import Question, examine
from raymodel.model.fields import NEEDED
from raymodel.model.presets import OWN, resolve_model
from raymodel.model.shape import Adapter, ModelShape
from raymodel.model.spec import AdapterSpec
from raymodel.observe.text import many
from raymodel.storage.registry import Run, artifact_text
from raymodel.storage.uri import Location
from raymodel.tasks import get_task, make_task
from raymodel.tasks.base import Task
from raymodel.train.forecast.stage import Forecast, find_problem, forecast
from raymodel.train.plan import TrainPlan, plan_training
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.tune.space import adapters_of

BYTES_PER_TOKEN = 4.0
"""Of raw text, for an estimate before a tokenizer exists: about four characters of English
(https://platform.openai.com/tokenizer). Code and other languages have fewer."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A training stage of the job."""

    name: str
    spec: TrainSpec
    forecasts: tuple[Forecast, ...]
    """One; or for an elastic run that of the fewest workers and that of the most."""
    data: str
    """Where the number of rows comes from."""
    problem: str | None
    """Why it cannot run on the machines that were named."""
    unit: str = "tokens"
    """What its rows are counted in."""


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """All that is known of a job before it runs."""

    job: Job
    progress: Progress
    stages: tuple[StagePlan, ...]
    unplanned: dict[str, str]
    """Training stage → why nothing can be computed for it, or not yet."""
    wrong: dict[str, str]
    """Stage → what is wrong with an input of it, which no waiting mends."""
    notes: tuple[str, ...]
    """What the job will do that the user may not expect, and what was found in its sources, as
    `raymodel run` says it."""
    fleet: Fleet | None

    def check(self) -> None:
        """Raises SpecError when a stage has a wrong input, or cannot run on the machines named.

        An input that is not there is no error: it may be made yet, or be seen by the cluster only.
        """
        problems = [f"{stage}: {why}" for stage, why in self.wrong.items()]
        problems += [stage.problem for stage in self.stages if stage.problem]
        if problems:
            raise SpecError("\n".join(problems))


def plan_job(job: Job, base_dir: Path, fleet: Fleet | None = None) -> JobPlan:
    """Plans every training stage of a job.

    Args:
        job: the checked job.
        base_dir: where relative paths start.
        fleet: the machines to plan for; None plans for what the job asks of any cluster.
    """
    inputs = look_at_inputs(job, base_dir)
    progress = inputs.progress
    stages, unplanned, wrong = [], {}, inputs.wrong()
    for name in ("pretrain", "finetune"):
        spec: TrainSpec | None = getattr(job, name)
        if spec is None or name in wrong:
            continue
        try:
            stages.append(_Stage(job, base_dir, fleet, progress, inputs).plan(name, spec))
        except NOT_THERE as error:
            unplanned[name] = str(error)
        except RaymodelError as error:
            wrong[name] = str(error)
    return JobPlan(
        job=job,
        progress=progress,
        stages=tuple(stages),
        unplanned=unplanned,
        wrong=wrong,
        notes=inputs.notes + inputs.found,
        fleet=fleet,
    )


NOT_THERE = (
    *(NotPlannedError, MissingSourceError, MissingArtifactError, StorageError),
    StorageUnavailableError,
)
"""No error of a plan: what is meant may be made yet, or be seen by the cluster only."""


@dataclass(frozen=True, kw_only=True)
class _Data:
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

    def plan(self, spec: TrainSpec) -> TrainPlan | None:
        """None when the duration is in epochs, of which the length is not known."""
        amounts = (spec.duration, spec.checkpoint.every, spec.validate_every, spec.log_every)
        if self.rows_per_epoch is None and any(a and a.unit == "epochs" for a in amounts):
            return None
        return plan_training(
            spec, rows_per_epoch=self.rows_per_epoch or 1, tokens_per_row=self.tokens_per_row
        )


@dataclass(frozen=True)
class _Stage:
    job: Job
    base_dir: Path
    fleet: Fleet | None
    progress: Progress
    inputs: Inputs

    def plan(self, name: str, spec: TrainSpec) -> StagePlan:
        if isinstance(spec, PretrainSpec):
            data = self._packed(spec)
            shape = self._shape(spec, data, *self._fresh(data))
        else:
            assert isinstance(spec, FinetuneSpec), "there are two kinds of training"
            data = self._examples(spec)
            shape = self._tuned(spec, data)
        forecasts = tuple(
            forecast(
                spec,
                shape,
                plan=data.plan(spec),
                row_tokens=data.row_tokens,
                workers=workers,
                on_gpu=self._on_gpu,
                fleet=self.fleet,
            )
            for workers in self._workers(spec)
        )
        problems = (
            find_problem(name, each, self.job.cluster, self.fleet)
            for each in forecasts
            if self.fleet is not None
        )
        return StagePlan(
            name=name,
            spec=spec,
            forecasts=forecasts,
            data=data.words,
            unit=processor_of(data.modality).unit,
            problem=next((problem for problem in problems if problem), None),
        )

    @property
    def _on_gpu(self) -> bool:
        named = self.fleet is not None and self.fleet.device is not None
        return named or self.job.cluster.gpus_per_worker > 0

    def _workers(self, spec: TrainSpec) -> tuple[int, ...]:
        if isinstance(spec, FinetuneSpec) and spec.sweep:
            return (spec.sweep.workers_per_trial,)
        cluster = self.job.cluster
        return tuple(dict.fromkeys((cluster.min_workers, cluster.max_workers)))

    # ---- the data --------------------------------------------------------------------------------

    def _packed(self, spec: TrainSpec) -> _Data:
        if self.progress.data:
            length = self.progress.data[0].artifact.content["sequence_length"]
            return _counted(self.progress.data, length)
        prepare = self.job.prepare
        if prepare is None:
            why = self.progress.unknown.get("prepare", "no such dataset")
            raise NotPlannedError(f"nothing is known of pretrain.data ({why})")
        tokens = _estimate_tokens(prepare, self.base_dir)
        length = prepare.sequence_length
        rows = None if tokens is None else max(1, round(tokens / length))
        words = "not prepared, and its sources cannot be read from here"
        if rows is not None:
            words = f"an estimate, at {BYTES_PER_TOKEN:g} bytes of source a token"
        if rows is not None and rows < spec.global_batch:  # no reason to refuse before it is known
            words += f": {many(rows, 'row')}, which would not fill a step of {spec.global_batch}"
        return _Data(
            row_tokens=length,
            vocab_size=self._vocab_size(prepare),
            rows_per_epoch=rows,
            tokens_per_row=float(length),
            words=words,
        )

    def _examples(self, spec: FinetuneSpec) -> _Data:
        task = make_task(spec.task)
        if task.modality != "text":
            return self._examples_of(spec, task)
        artifact = self.progress.complete.get("examples")
        if artifact is not None:
            return _counted(mixture_of(artifact), task.longest_row(spec.max_length))
        longest = task.longest_row(spec.max_length)
        return _Data(
            row_tokens=longest,
            vocab_size=0,  # that of the base
            rows_per_epoch=None,
            tokens_per_row=float(longest * spec.task.row_texts),
            words="not prepared: the longest examples are taken for all",
        )

    def _examples_of(self, spec: FinetuneSpec, task: Task) -> _Data:
        """Each is one row, which counts as one of what throughput is measured in."""
        artifact = self.progress.complete.get("examples")
        processor = task.fresh_processor()
        if self.progress.base is not None:
            read = task.reading_as(self.progress.base.location)
            read.adapt_processor({})  # none but texts have files
            processor = read.processor
        if processor is None:
            why = self.progress.unknown.get("finetune", "it is not there")
            raise NotPlannedError(f"nothing is known of finetune.base ({why})")
        known = _counted(mixture_of(artifact), 1) if artifact is not None else None
        return _Data(
            row_tokens=1,
            vocab_size=0,
            rows_per_epoch=known.rows_per_epoch if known else None,
            tokens_per_row=1.0,
            words=known.words.replace("tokens", task.processor_class().unit)
            if known
            else "not prepared: how many rows there are is not known",
            modality=task.modality,
            facts=processor.facts(),
        )

    def _vocab_size(self, prepare: PrepareSpec) -> int:
        if prepare.tokenizer.vocab_size is not None:
            return prepare.tokenizer.vocab_size
        assert prepare.tokenizer.load is not None, "the spec has exactly one of the two"
        place = find_tokenizer(prepare.tokenizer.load, self.base_dir)
        content = (place / "tokenizer.json").read_json()
        added: list[int] = [token["id"] + 1 for token in content.get("added_tokens", ())]
        return max(len(content["model"]["vocab"]), *added, 0)

    # ---- the model -------------------------------------------------------------------------------

    def _fresh(self, data: _Data) -> tuple[Question, Mapping[str, Any]]:
        """What `pretrain:` makes: how it is asked about, and its configuration."""
        assert self.job.pretrain is not None, "the caller looked"
        spec = self.job.pretrain
        architecture, fields = resolve_model(spec.model)
        sizes = {"vocab_size": data.vocab_size, "max_position_embeddings": data.row_tokens}
        question = Question(task=spec.objective.name, architecture=architecture, fields=fields)
        defaults: Mapping[str, Any] = {}  # of what a formula needs and the job leaves out
        if can_count(architecture):
            defaults = examine([question])[0].config
        config = {**defaults, **sizes, **fields, "model_type": architecture}
        return replace(question, sizes=sizes), config

    def _tuned(self, spec: FinetuneSpec, data: _Data) -> Shape:
        question, config = self._base(spec, data)
        kind, labels = get_task(spec.task.name), list[str]()
        if kind.class_role():
            artifact = self.progress.complete.get("examples")
            labels = artifact.content["labels"] if artifact else ["0", "1"]
        outputs = kind(labels=labels).num_outputs
        adapter = next(iter(adapters_of(spec)), None)
        return self._shape(spec, data, question, config, outputs=outputs, adapter=adapter)

    def _base(self, spec: FinetuneSpec, data: _Data) -> tuple[Question, Mapping[str, Any]]:
        """The same of what fine-tuning starts from."""
        base = self.progress.base
        if base is not None:
            config = (base.location / "config.json").read_json()
            if self.inputs.base is not None:  # with the defaults that the folder leaves out
                config |= self.inputs.base.config
            return replace(question_of(spec.task, self.base_dir), folder=base.location), config
        if spec.model is not None:
            architecture, fields = resolve_model(spec.model)
            made = {name: size for name, size in data.facts.items() if name == "num_channels"}
            if architecture == OWN:
                made = offered_to_own(spec)
            question = Question(
                task=spec.task.name, architecture=architecture, fields=made | fields
            )
            return question, {**fields, "model_type": architecture}
        if self.job.pretrain is None or spec.base is not None:
            why = self.progress.unknown.get("finetune", "it is not there")
            raise NotPlannedError(f"nothing is known of finetune.base ({why})")
        question, config = self._fresh(self._packed(self.job.pretrain))
        # A classifier looks for where its rows end; any id of the vocabulary will do for that.
        fields = {"pad_token_id": 0, **question.fields}
        return replace(question, task=spec.task.name, fields=fields), config

    def _shape(
        self,
        spec: TrainSpec,
        data: _Data,
        question: Question,
        config: Mapping[str, Any],
        *,
        outputs: int = 0,
        adapter: AdapterSpec | None = None,
    ) -> Shape:
        """By formula where there is one; else the model is counted, in a process of its own."""
        architecture = str(config["model_type"])
        if can_count(architecture) and get_task(str(question.task)).has_counted_head():
            _check_is_known(config)
            return ModelShape.of(architecture, config, num_labels=outputs, adapter=adapter)
        counting = Counting(
            rows=rows_of(data.modality, data.facts, data.row_tokens, _lengths(spec)),
            precision=spec.precision,
            attention=spec.attention,
            on_gpu=self._on_gpu,
            labels=outputs or 2,
        )
        adapters = (adapter,) if adapter else ()
        [answer] = examine([replace(question, adapters=adapters, counting=counting)])
        if answer.count is None:
            why = answer.not_counted or "; ".join(message for _, message in answer.problems)
            raise NotPlannedError(
                f"there is no formula for the size and the memory of a {architecture} model, and "
                f"it cannot be counted: {why}"
            )
        return CountedShape(
            architecture=architecture,
            config=answer.config,
            count=answer.count,
            adapter=Adapter.of(adapter),
        )


def _lengths(spec: TrainSpec) -> Lengths:
    if isinstance(spec, FinetuneSpec):
        return partial(make_task(spec.task).forward_lengths, max_length=spec.max_length)
    assert isinstance(spec, PretrainSpec), "there are two kinds of training"
    return partial(make_task(spec.objective).forward_lengths, max_length=None)


def _counted(data: Mixture, row_tokens: int) -> _Data:
    """The counts of complete datasets, as training itself takes them."""
    from raymodel.data.shard import open_dataset

    dataset = open_dataset(data, "train")
    splits = [artifact.content["splits"]["train"] for artifact, _ in data]
    rows, tokens = (sum(split[name] for split in splits) for name in ("rows", "tokens"))
    marks = ", ".join(artifact.fingerprint for artifact, _ in data)
    return _Data(
        row_tokens=row_tokens,
        vocab_size=data[0].artifact.content["processor"].get("vocab_size", 0),
        rows_per_epoch=dataset.order(0, 1).rows_per_epoch,
        tokens_per_row=dataset.tokens_per_row,
        words=f"{rows:,} rows, {tokens:,} tokens ({marks})",
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


def _check_is_known(config: Mapping[str, Any]) -> None:
    unknown = [name for name in NEEDED if not config.get(name)]
    if unknown:
        raise NotPlannedError(
            f"{', '.join(unknown)} of the model are what transformers makes them, which is not "
            "installed here; write them below model.config, or plan where it is"
        )


def stage_states(plan: JobPlan) -> Iterator[tuple[str, str]]:
    """(stage, whether it is complete) of each stage of the job, in the order they run."""
    job, progress = plan.job, plan.progress
    run = Run(Location.parse(job.storage) / job.name)
    names = [name for name in ("prepare", "pretrain") if getattr(job, name)]
    names += ["examples", "finetune"] if job.finetune else []
    names += [name for name in ("evaluate", "serve") if getattr(job, name)]
    for name in names:
        artifact = progress.complete.get(name)
        why = progress.unknown.get("finetune" if name == "examples" else name)
        if artifact is not None:
            again = "; on a cluster it is served again" if name == "serve" else ""
            yield name, f"complete ({artifact_text(artifact, run)}){again}"
        else:
            yield name, f"not known: {why.partition(' (')[0].partition(';')[0]}" if why else "to do"
