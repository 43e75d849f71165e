"""Which stages of a job are complete: the same lookups as the pipeline, starting nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymodel.data.mixture import Mixture, inputs_of, mixture_of, resolve_mixture
from raymodel.data.sources import prepare_identity
from raymodel.errors import ArtifactError, SourceError, StorageError
from raymodel.job import Job
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.execution import execution_fingerprint
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.train.base import (
    BaseModel,
    base_of,
    examples_identity,
    finetune_identity,
    resolve_base,
)


@dataclass
class Progress:
    """What a storage holds of a job."""

    complete: dict[str, Artifact] = field(default_factory=dict)
    """Stage → its artifact."""
    data: Mixture = ()
    """What pretraining reads, where that is complete."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Stage → why it cannot be told from here, such as a source that only the cluster sees."""
    base: BaseModel | None = None
    """What fine-tuning starts from, where that lies in a storage already."""


def find_progress(job: Job, base_dir: Path) -> Progress:
    """Looks a job's stages up in its storage, in their order, as far as inputs are known.

    Args:
        job: the job.
        base_dir: where relative paths start.
    """
    return _Search(job, base_dir).run()


class _Search:
    def __init__(self, job: Job, base_dir: Path) -> None:
        self._job, self._base_dir = job, base_dir
        self._storage = Location.parse(job.storage)
        self._run = Run(self._storage / job.name)
        self._found = Progress()

    def run(self) -> Progress:
        job = self._job
        self._try("prepare", self._prepare)
        self._try("pretrain", self._pretrain)
        if job.finetune:
            self._try("finetune", self._finetune)
        if job.evaluate:
            self._try("evaluate", self._evaluate)
        return self._found

    def _try(self, stage: str, look: Any) -> None:
        """A storage or source that cannot be read from here is no reason to plan nothing."""
        try:
            look()
        except (SourceError, StorageError, ArtifactError, OSError) as error:
            self._found.unknown[stage] = str(error)

    def _look(
        self, stage: str, identity: Mapping[str, Any], inputs: Mapping[str, Artifact]
    ) -> None:
        mark = execution_fingerprint(stage, seed=self._job.seed, identity=identity, inputs=inputs)
        artifact = find_artifact(self._run.execution(stage, mark))
        if artifact is not None:
            self._found.complete[stage] = artifact

    def _prepare(self) -> None:
        job = self._job
        if job.prepare:
            self._look("prepare", prepare_identity(job.prepare, self._base_dir), {})
        prepared = self._found.complete.get("prepare")
        if job.pretrain and job.pretrain.data:
            self._found.data = resolve_mixture(job.pretrain.datasets, self._storage, self._base_dir)
        elif prepared:
            self._found.data = mixture_of(prepared)

    def _pretrain(self) -> None:
        spec = self._job.pretrain
        if spec and self._found.data:
            self._look("pretrain", spec.identity(), inputs_of(self._found.data))

    def _finetune(self) -> None:
        spec = self._job.finetune
        assert spec is not None, "the caller looked"
        pretrained = self._found.complete.get("pretrain")
        if spec.base is not None:
            self._found.base = resolve_base(spec.base, self._storage, self._base_dir)
        elif pretrained is not None:
            self._found.base = base_of(pretrained)
        base = self._found.base
        if base is None:
            return
        self._look("examples", examples_identity(spec, base, self._base_dir), base.inputs)
        examples = self._found.complete.get("examples")
        if examples is not None:
            inputs = base.inputs | {"examples": examples}
            self._look("finetune", finetune_identity(spec, base), inputs)

    def _evaluate(self) -> None:
        spec = self._job.evaluate
        assert spec is not None, "the caller looked"
        complete = self._found.complete
        newest = complete.get("finetune" if self._job.finetune else "pretrain")
        if newest is None:
            return
        roles = {
            "model": newest,
            "base": complete.get("pretrain"),
            "examples": complete.get("examples"),
            **(inputs_of(self._found.data) if self._found.data else {}),
        }
        inputs = {role: artifact for role, artifact in roles.items() if artifact is not None}
        self._look("evaluate", spec.identity(), inputs)
