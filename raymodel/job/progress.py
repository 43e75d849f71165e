"""Which stages of a job are complete: the same lookups as the pipeline, starting nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raymodel.compress.origin import Rows
from raymodel.data.mixture import Mixture, mixture_of
from raymodel.errors import ArtifactError, LocationError, SourceError, StorageError
from raymodel.job.spec import Job
from raymodel.job.stages import Stage, Stages
from raymodel.storage.artifact import Artifact
from raymodel.storage.registry import Run
from raymodel.train.base import BaseModel


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

    def rows(self, stage: str) -> Mixture:
        """What a training stage reads; empty where that is not complete."""
        if stage == "pretrain":
            return self.data
        examples = self.complete.get("examples")
        return mixture_of(examples) if examples else ()


def find_progress(job: Job, base_dir: Path) -> Progress:
    """Looks a job's stages up in its storage, in their order, as far as inputs are known.

    Args:
        job: the job.
        base_dir: where relative paths start.
    """
    return _Search(job, base_dir).run()


class _Search:
    def __init__(self, job: Job, base_dir: Path) -> None:
        self._job, self._stages = job, Stages(job, base_dir)
        self._run = Run(self._stages.storage / job.name)
        self._found = Progress()

    def run(self) -> Progress:
        job = self._job
        self._try("prepare", self._prepare)
        if job.pretrain:
            self._try("pretrain", self._pretrain)
        if job.finetune:
            self._try("finetune", self._finetune)
        if job.evaluate and job.trains:
            self._try("evaluate", self._evaluate)
        if job.compress:
            self._try("compress", self._compress)
        if job.serve:
            self._try("serve", self._serve)
        return self._found

    def _try(self, stage: str, look: Callable[[], None]) -> None:
        """A storage or source that cannot be read from here is no reason to plan nothing."""
        try:
            look()
        except (SourceError, LocationError, StorageError, ArtifactError, OSError) as error:
            self._found.unknown[stage] = str(error)

    def _look(self, stage: Stage) -> Artifact | None:
        artifact = stage.find(self._run, stage.fingerprint(self._job.seed))
        if artifact is not None:
            self._found.complete[stage.name] = artifact
        return artifact

    def _prepare(self) -> None:
        prepared = self._look(self._stages.prepare()) if self._job.prepare else None
        self._found.data = self._stages.data(prepared)

    def _pretrain(self) -> None:
        if self._found.data:
            base = self._stages.pretrain_base()
            teacher = self._stages.teacher(self._job.pretrain)
            self._look(self._stages.pretrain(self._found.data, base, teacher))

    def _finetune(self) -> None:
        base = self._stages.base(self._found.complete.get("pretrain"))
        self._found.base = base
        assert self._job.finetune is not None, "the caller looked"
        is_known = base is not None or self._job.finetune.model is not None
        reader = self._stages.reader(base)
        examples = self._look(self._stages.examples(reader)) if is_known else None
        if examples:
            teacher = self._stages.teacher(self._job.finetune)
            self._look(self._stages.finetune(base, examples, teacher))

    def _evaluate(self) -> None:
        complete = self._found.complete
        newest = self._newest()
        if newest is not None:
            stage = self._stages.evaluate(
                newest,
                base=self._found.base if self._job.finetune else self._stages.pretrain_base(),
                examples=complete.get("examples"),
                data=self._stages.held_out(self._found.data),
                teacher=self._stages.newest_teacher(),
            )
            self._look(stage)

    def _compress(self) -> None:
        models, base = self._stages.compressed(self._measured()), self._stages.compress_base()
        if not models:
            return
        rows = Rows(self._found.complete.get("examples"), self._stages.held_out(self._found.data))
        rows = self._stages.compress_rows(models[0], self._newest(), rows)
        self._look(self._stages.compress(models, base, rows))

    def _serve(self) -> None:
        model = self._stages.served(self._promoted())
        if model is not None:
            self._look(self._stages.serve(model))

    def _newest(self) -> Artifact | None:
        return self._found.complete.get("finetune" if self._job.finetune else "pretrain")

    def _measured(self) -> Artifact | None:
        """The newest model that was trained, where it has met its gates."""
        evaluated = self._found.complete.get("evaluate")
        met = evaluated.content["passed"] if evaluated else not self._job.evaluate
        return self._newest() if met else None

    def _promoted(self) -> Artifact | None:
        """The newest model, where it has met its gates."""
        if not self._job.compress:
            return self._measured()
        compressed = self._found.complete.get("compress")
        return compressed if compressed and compressed.content["passed"] else None
