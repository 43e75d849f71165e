"""The stages of a job: which artifacts each reads, and what else decides its result.

The pipeline runs them, `progress.py` looks them up and `torchrun.py` trains one of them. All
have them from here, since a stage that is told otherwise is another execution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymodel.compress.origin import Rows, models_by_role, resolve_models, rows_of
from raymodel.data.mixture import Mixture, inputs_of, mixture_of, resolve_mixture
from raymodel.data.sources import prepare_identity
from raymodel.job.spec import Job
from raymodel.serve.filters.spec import classifiers_of
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.execution import execution_fingerprint
from raymodel.storage.registry import Run, find_in_other_runs
from raymodel.storage.uri import Location
from raymodel.storage.versions import packages_of
from raymodel.train.base import (
    BaseModel,
    base_of,
    examples_identity,
    finetune_identity,
    resolve_base,
    teacher_identity,
)
from raymodel.train.spec import TrainSpec

# Made of raw data by the same recipe under every job name, and read by training alone. A model is
# not taken over: its run holds its checkpoints, its records and what was learnt from its failures.
_SHARED = ("prepare", "examples")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a job whose inputs are complete."""

    name: str
    identity: dict[str, Any]
    """What of the spec and the raw input decides the result."""
    inputs: Mapping[str, Artifact]
    """By role."""

    def fingerprint(self, seed: int) -> str:
        """Names its execution."""
        return execution_fingerprint(
            self.name, seed=seed, identity=self.identity, inputs=self.inputs
        )

    def find(self, run: Run, mark: str) -> Artifact | None:
        """Its complete artifact: of this run, else, of prepared data, of any other in its storage.

        Args:
            mark: its fingerprint.

        Raises:
            ArtifactError: this run's own is not good.
        """
        own = find_artifact(run.execution(self.name, mark))
        if own is not None or self.name not in _SHARED:
            return own
        return find_in_other_runs(run, self.name, mark)

    @property
    def packages(self) -> tuple[str, ...]:
        """Those that decide its result, for the manifest."""
        return packages_of(self.name, self.identity)


@dataclass(frozen=True)
class Stages:
    """Those of one job. Ask only for stages that it has, in their order.

    Errors are those of `resolve_mixture`, `resolve_base` and of the sources.
    """

    job: Job
    base_dir: Path
    """Where relative paths start."""

    @property
    def storage(self) -> Location:
        return Location.parse(self.job.storage)

    def prepare(self) -> Stage:
        spec = self.job.prepare
        assert spec is not None, "the caller looked"
        return Stage(name="prepare", identity=prepare_identity(spec, self.base_dir), inputs={})

    def data(self, prepared: Artifact | None) -> Mixture:
        """What `pretrain.data` names, else what the job prepared; empty when there is neither."""
        spec = self.job.pretrain
        if spec and spec.data:
            return resolve_mixture(spec.datasets, self.storage, self.base_dir)
        return mixture_of(prepared) if prepared else ()

    def teacher(self, spec: TrainSpec | None) -> BaseModel | None:
        """What the model of a stage learns from besides the data; None where it does not."""
        if spec is None or spec.distill is None:
            return None
        return resolve_base(spec.distill.teacher, self.storage, self.base_dir)

    def pretrain_base(self) -> BaseModel | None:
        """What `pretrain.base` names; None where the model is a fresh one, or nothing pretrains."""
        spec = self.job.pretrain
        if spec is None or spec.base is None:
            return None
        return resolve_base(spec.base, self.storage, self.base_dir)

    def pretrain(
        self, data: Mixture, base: BaseModel | None = None, teacher: BaseModel | None = None
    ) -> Stage:
        spec = self.job.pretrain
        assert spec is not None, "the caller looked"
        identity = spec.identity() | teacher_identity(teacher)
        if base is not None:
            identity["base"] = base.identity
        inputs = inputs_of(data) | (base.inputs if base else {}) | _as_teacher(teacher)
        return Stage(name="pretrain", identity=identity, inputs=inputs)

    def base(self, pretrained: Artifact | None) -> BaseModel | None:
        """What `finetune.base` names, or the teacher that a student is a part of; else what the job
        pretrained; None where none is there, or the model is a fresh one."""
        spec = self.job.finetune
        assert spec is not None, "the caller looked"
        if spec.makes_student:
            return self.teacher(spec)
        if spec.base is not None:
            return resolve_base(spec.base, self.storage, self.base_dir)
        return base_of(pretrained) if pretrained and spec.model is None else None

    def reader(self, base: BaseModel | None) -> BaseModel | None:
        """The model whose processor reads the examples: the base, or where a fresh model has a
        teacher, that. None where a fresh model has its own."""
        return base or self.teacher(self.job.finetune)

    def examples(self, base: BaseModel | None) -> Stage:
        """The labelled sources as shards: an artifact of its own, shared by all trials.

        Args:
            base: from `reader`.
        """
        spec = self.job.finetune
        assert spec is not None, "the caller looked"
        identity = examples_identity(spec, base, self.base_dir)
        return Stage(name="examples", identity=identity, inputs=base.inputs if base else {})

    def finetune(
        self, base: BaseModel | None, examples: Artifact, teacher: BaseModel | None = None
    ) -> Stage:
        spec = self.job.finetune
        assert spec is not None, "the caller looked"
        inputs = (base.inputs if base else {}) | {"examples": examples} | _as_teacher(teacher)
        identity = finetune_identity(spec, base, teacher)
        return Stage(name="finetune", identity=identity, inputs=inputs)

    def held_out(self, data: Mixture) -> Mixture:
        """Those of the datasets that the job's newest model can be measured on.

        A base that the job names came with a tokenizer of its own: to it the tokens of other
        datasets are other words, or none. A fresh model has seen none of them.
        """
        tuned = self.job.finetune
        return () if tuned is not None and not tuned.starts_from_pretrain else data

    def evaluate(
        self,
        model: Artifact,
        *,
        base: BaseModel | None,
        examples: Artifact | None,
        data: Mixture,
        teacher: BaseModel | None = None,
    ) -> Stage:
        """Measures a model, and beside it its teacher; else its base where that is an artifact.

        Args:
            base: what the model's training started from; None of a fresh one.
            examples: those of the fine-tuning.
            data: from `held_out`.
            teacher: from `newest_teacher`.
        """
        spec = self.job.evaluate
        assert spec is not None, "the caller looked"
        before = base.artifact if base and not teacher else None
        roles = {"model": model, "base": before, "examples": examples, **inputs_of(data)}
        inputs = {role: artifact for role, artifact in roles.items() if artifact is not None}
        return Stage(
            name="evaluate",
            identity=spec.identity() | teacher_identity(teacher),
            inputs=inputs | _as_teacher(teacher),
        )

    def newest_teacher(self) -> BaseModel | None:
        """The teacher of the job's newest model."""
        return self.teacher(self.job.finetune or self.job.pretrain)

    def compressed(self, newest: Artifact | None) -> tuple[Artifact, ...]:
        """The models that `compress` names, else the newest one; none when there is neither.

        Args:
            newest: trained by the job, and past its gates.
        """
        spec = self.job.compress
        assert spec is not None, "the caller looked"
        if spec.named:
            return resolve_models(spec.named, self.storage, self.base_dir)
        return (newest,) if newest else ()

    def compress_base(self) -> BaseModel | None:
        """What merged models were tuned from, where the job says so."""
        spec = self.job.compress
        assert spec is not None, "the caller looked"
        if spec.merge is None or spec.merge.base is None:
            return None
        return resolve_base(spec.merge.base, self.storage, self.base_dir)

    def compress_rows(self, model: Artifact, newest: Artifact | None, rows: Rows) -> Rows:
        """The datasets that a compressed model is measured on: those of what it is made from.

        Args:
            model: the first that it is made of.
            newest: trained by the job.
            rows: those that `evaluate` measures that one on.
        """
        is_own = newest is not None and newest.fingerprint == model.fingerprint
        return rows if is_own else rows_of(model)

    def compress(self, models: tuple[Artifact, ...], base: BaseModel | None, rows: Rows) -> Stage:
        """Makes a model of others, and measures it beside them as `evaluate` says."""
        spec, measures = self.job.compress, self.job.evaluate
        assert spec is not None, "the caller looked"
        assert measures is not None, "the spec asks for it"
        roles = {
            **models_by_role(models),
            "base": base.artifact if base else None,
            "examples": rows.examples,
            **inputs_of(rows.data),
        }
        inputs = {role: artifact for role, artifact in roles.items() if artifact is not None}
        identity = {**spec.identity(), "measures": measures.identity()}
        if base is not None:
            identity["base"] = base.identity
        return Stage(name="compress", identity=identity, inputs=inputs)

    def served(self, newest: Artifact | None) -> BaseModel | None:
        """What `serve.model` names, else the newest model; None when there is neither.

        Args:
            newest: trained by the job, and past its gates.
        """
        spec = self.job.serve
        assert spec is not None, "the caller looked"
        if spec.model:
            return resolve_base(spec.model, self.storage, self.base_dir)
        return base_of(newest) if newest else None

    def members(self) -> list[BaseModel]:
        """What answers together with the model that is served."""
        names = self.job.serve.ensemble if self.job.serve else ()
        return [resolve_base(name, self.storage, self.base_dir) for name in names]

    def embedder(self) -> BaseModel | None:
        """What finds the documents that a served chat model answers from; None without any."""
        if self.job.serve is None or self.job.serve.documents is None:
            return None
        return resolve_base(self.job.serve.documents.embedder, self.storage, self.base_dir)

    def draft(self) -> BaseModel | None:
        """What writes ahead of the model that is served; None without one."""
        if self.job.serve is None or self.job.serve.draft is None:
            return None
        return resolve_base(self.job.serve.draft.model, self.storage, self.base_dir)

    def classifiers(self) -> list[BaseModel]:
        """The models of the filters that have one, in their order."""
        filters = self.job.serve.filters if self.job.serve else ()
        named = [each.model for each in classifiers_of(filters)]
        return [resolve_base(name, self.storage, self.base_dir) for name in named]

    def serve(self, model: BaseModel) -> Stage:
        spec = self.job.serve
        assert spec is not None, "the caller looked"
        # Which model it is, the input says, or `base`; the reference to it is only a name.
        identity = spec.identity() | {"model": None, "base": model.identity}
        if spec.ensemble:
            identity["ensemble"] = [each.identity for each in self.members()]
        if spec.draft and (draft := self.draft()):
            made = draft.artifact and draft.artifact.fingerprint
            identity["draft"] = [spec.draft.tokens, made or draft.identity]
        if spec.documents:
            identity["documents"] = spec.documents.identity()
        if spec.filters:
            identity["filters"] = [each.mark() for each in spec.filters]
            identity["classifiers"] = [each.identity for each in self.classifiers()]
        inputs = {"model": model.artifact} if model.artifact else {}
        return Stage(name="serve", identity=identity, inputs=inputs)


def _as_teacher(teacher: BaseModel | None) -> dict[str, Artifact]:
    """By role; nothing of a folder that no run has made."""
    return {"teacher": teacher.artifact} if teacher and teacher.artifact else {}
