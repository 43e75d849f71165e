"""`raymodel plan`: what a job will be, before it is run. Starts nothing; loads no torch and no Ray.

Exact where a dataset is complete; else an estimate from the sources, which says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from raymodel.cluster.devices import Fleet
from raymodel.errors import (
    MissingArtifactError,
    MissingSourceError,
    NotPlannedError,
    RaymodelError,
    SpecError,
    StorageError,
    StorageUnavailableError,
)
from raymodel.job.known_rows import KnownRows, example_rows, plain_rows
from raymodel.job.pins import pin_job
from raymodel.job.preflight import Inputs, look_at_inputs, offered_to_own, question_of
from raymodel.job.progress import Progress
from raymodel.job.served import served_text, trained_model
from raymodel.job.spec import Job
from raymodel.job.stages import Stages
from raymodel.modality import processor_of
from raymodel.model.count import can_count
from raymodel.model.counted import CountedShape, Counting, Lengths, Shape, rows_of
from raymodel.model.examine import Question, examine
from raymodel.model.fields import NEEDED
from raymodel.model.presets import OWN, resolve_model
from raymodel.model.shape import Adapter, ModelShape
from raymodel.model.spec import AdapterSpec
from raymodel.storage.registry import Run, artifact_text
from raymodel.storage.uri import Location
from raymodel.tasks import get_task, make_task
from raymodel.tasks.spec import AnyTask
from raymodel.train.base import classes_of, resolve_base
from raymodel.train.forecast.stage import Forecast, find_problem, forecast
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec
from raymodel.tune.space import adapters_of


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
    seen: Mapping[str, Any] | None = None
    """What the run will see of each source, where it has several, or stages; None too where the
    data is not there yet."""


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
    served: tuple[tuple[str, str], ...] = ()
    """What is known of serving: names and words."""

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
    # What cannot be told of the Hub, a look at the sources says in its place.
    with suppress(RaymodelError, OSError):
        job = pin_job(job, Run(Location.parse(job.storage) / job.name)).job
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
        served=_served(job, base_dir, progress, stages, fleet),
    )


def _served(
    job: Job,
    base_dir: Path,
    progress: Progress,
    stages: Sequence[StagePlan],
    fleet: Fleet | None,
) -> tuple[tuple[str, str], ...]:
    if job.serve is None:
        return ()
    trained = trained_model(stages[-1].spec, stages[-1].forecasts[0].shape) if stages else None
    return served_text(job, Stages(job, base_dir), progress, trained, fleet)


NOT_THERE = (
    *(NotPlannedError, MissingSourceError, MissingArtifactError, StorageError),
    StorageUnavailableError,
)
"""No error of a plan: what is meant may be made yet, or be seen by the cluster only."""


@dataclass(frozen=True)
class _Stage:
    job: Job
    base_dir: Path
    fleet: Fleet | None
    progress: Progress
    inputs: Inputs

    def plan(self, name: str, spec: TrainSpec) -> StagePlan:
        if isinstance(spec, PretrainSpec):
            data = self._plain(spec)
            shape = self._shape(spec, data, *self._pretrained(spec, data))
        else:
            assert isinstance(spec, FinetuneSpec), "there are two kinds of training"
            data = example_rows(spec, self.progress, self._before(spec))
            shape = self._tuned(spec, data)
        teacher = self._teacher(name, spec, data)
        forecasts = tuple(
            forecast(
                spec,
                shape,
                teacher=teacher,
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
            seen=_seen(spec, data),
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

    # ---- the model -------------------------------------------------------------------------------

    def _pretrained(
        self, spec: PretrainSpec, data: KnownRows
    ) -> tuple[Question, Mapping[str, Any]]:
        """What `pretrain:` makes: how it is asked about, and its configuration."""
        if spec.base is not None:
            base = resolve_base(spec.base, Location.parse(self.job.storage), self.base_dir)
            config = (base.location / "config.json").read_json()
            if (known := self.inputs.pretrain_base) is not None:  # with defaults that it leaves out
                config |= known.config
            return replace(question_of(spec.objective, self.base_dir), folder=base.location), config
        assert spec.model is not None, "the spec has one of the two"
        architecture, fields = resolve_model(spec.model)
        sizes = data.sizes
        question = Question(task=spec.objective.name, architecture=architecture, fields=fields)
        defaults: Mapping[str, Any] = {}  # of what a formula needs and the job leaves out
        if can_count(architecture):
            defaults = examine([question])[0].config
        config = {**defaults, **sizes, **fields, "model_type": architecture}
        return replace(question, sizes=sizes), config

    def _tuned(self, spec: FinetuneSpec, data: KnownRows) -> Shape:
        question, config = self._base(spec, data)
        kind, labels = get_task(spec.task.name), list[str](spec.task.named_classes)
        if kind.class_role() and not labels:
            artifact = self.progress.complete.get("examples")
            labels = artifact.content["labels"] if artifact else ["0", "1"]
        outputs = kind(labels=labels).num_outputs
        adapter = next(iter(adapters_of(spec)), None)
        return self._shape(spec, data, question, config, outputs=outputs, adapter=adapter)

    def _base(self, spec: FinetuneSpec, data: KnownRows) -> tuple[Question, Mapping[str, Any]]:
        """The same of what fine-tuning starts from."""
        base = self.progress.base
        if base is not None:
            config = (base.location / "config.json").read_json()
            if self.inputs.base is not None:  # with the defaults that the folder leaves out
                config |= self.inputs.base.config
            question = replace(question_of(spec.task, self.base_dir), folder=base.location)
            student = spec.distill.student if spec.distill else None
            if student is not None:
                config |= {"num_hidden_layers": student.layers}
                question = replace(question, layers=student.layers)
            return question, config
        if spec.model is not None:
            architecture, fields = resolve_model(spec.model)
            made = {name: size for name, size in data.facts.items() if name == "num_channels"}
            if architecture == OWN:
                made = offered_to_own(spec)
            made = self._vocabulary(spec) | made
            question = Question(
                task=spec.task.name, architecture=architecture, fields=made | fields
            )
            return question, {**made, **fields, "model_type": architecture}
        if self.job.pretrain is None or spec.base is not None:
            why = self.progress.unknown.get("finetune", "it is not there")
            raise NotPlannedError(f"nothing is known of finetune.base ({why})")
        before = self._plain(self.job.pretrain)
        question, config = self._pretrained(self.job.pretrain, before)
        if question.folder is not None:
            return replace(question_of(spec.task, self.base_dir), folder=question.folder), config
        question = replace(question, task=spec.task.name, takes_over=True)
        if before.modality != "text":
            return question, config
        # A classifier looks for where its rows end; any id of the vocabulary will do for that.
        return replace(question, fields={"pad_token_id": 0, **question.fields}), config

    def _vocabulary(self, spec: FinetuneSpec) -> dict[str, Any]:
        """How many ids a fresh model that reads text has, as far as that is known: a student has
        those of its teacher."""
        teacher, own = self.inputs.teachers.get("finetune"), spec.tokenizer
        size = teacher.config.get("vocab_size") if teacher else own and own.vocab_size
        return {"vocab_size": size} if size else {}

    def _teacher(self, stage: str, spec: TrainSpec, data: KnownRows) -> Shape | None:
        """The shape of what is learnt from besides the data."""
        teacher = Stages(self.job, self.base_dir).teacher(spec)
        if teacher is None:
            return None
        task = spec.task if isinstance(spec, FinetuneSpec) else self._objective
        config = (teacher.location / "config.json").read_json()
        if stage in self.inputs.teachers:  # with the defaults that the folder leaves out
            config |= self.inputs.teachers[stage].config
        outputs = len(classes_of(config)) if get_task(task.name).draws_head else 0
        question = replace(question_of(task, self.base_dir), folder=teacher.location)
        return self._shape(spec, data, question, config, outputs=outputs)

    @property
    def _objective(self) -> AnyTask:
        assert self.job.pretrain is not None, "the caller looked"
        return self.job.pretrain.objective

    def _before(self, spec: FinetuneSpec) -> KnownRows | None:
        """What the base reads that the job has yet to make."""
        waits = spec.starts_from_pretrain and self.progress.base is None
        return self._plain(self.job.pretrain) if waits and self.job.pretrain else None

    def _plain(self, spec: PretrainSpec) -> KnownRows:
        return plain_rows(spec, self.job.prepare, self.progress, self.base_dir)

    def _shape(
        self,
        spec: TrainSpec,
        data: KnownRows,
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


def _seen(spec: TrainSpec, data: KnownRows) -> Mapping[str, Any] | None:
    plan = data.plan(spec) if data.data else None
    if plan is None:
        return None
    from raymodel.train.work import open_train, seen_of  # imports numpy

    return seen_of(spec, open_train(spec, data.data), plan)


def _lengths(spec: TrainSpec) -> Lengths:
    if isinstance(spec, FinetuneSpec):
        return partial(make_task(spec.task).forward_lengths, max_length=spec.max_length)
    assert isinstance(spec, PretrainSpec), "there are two kinds of training"
    return partial(make_task(spec.objective).forward_lengths, max_length=None)


def _check_is_known(config: Mapping[str, Any]) -> None:
    if not config.get("vocab_size"):
        raise NotPlannedError(
            "how many ids the tokenizer has is seen when it is there; give model.config.vocab_size "
            "to plan before"
        )
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
    names += ["evaluate"] if job.evaluate and job.trains else []
    names += [name for name in ("compress", "serve") if getattr(job, name)]
    for name in names:
        artifact = progress.complete.get(name)
        why = progress.unknown.get("finetune" if name == "examples" else name)
        if artifact is not None:
            again = "; on a cluster it is served again" if name == "serve" else ""
            yield name, f"complete ({artifact_text(artifact, run)}){again}"
        else:
            yield name, f"not known: {why.partition(' (')[0].partition(';')[0]}" if why else "to do"
