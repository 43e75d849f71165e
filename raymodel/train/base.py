"""The model that fine-tuning starts from, and what decides the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raymodel.data.sources import (
    locate_by_name,
    sets_identity,
    sources_identity,
    tokenizer_identity,
)
from raymodel.data.spec import ROWS_VERSION
from raymodel.errors import ArtifactError, MissingArtifactError
from raymodel.spec.base import fingerprint
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.content import content_of
from raymodel.storage.execution import ATTEMPTS_FILE
from raymodel.storage.hub import check_no_hub_id
from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.manifest import FILE_NAME
from raymodel.storage.registry import resolve_artifact
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.files import read_files
from raymodel.train.spec import FinetuneSpec

EXAMPLE_FIELDS = ("task", "sources", "clean", "holdout", "max_length", "tokenizer")
"""Fields of `finetune:` that decide its examples, which are an artifact of their own."""


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A Hugging Face folder, and the artifact that it belongs to when it is one of ours."""

    location: Location
    artifact: Artifact | None = None

    @property
    def inputs(self) -> dict[str, Artifact]:
        return {"base": self.artifact} if self.artifact else {}

    @property
    def named(self) -> str:
        """For a card: which run made it, or which commit of the Hub it is; else the name of its
        folder and what is in that."""
        if self.artifact is not None:
            made = self.artifact
            return f"{made.manifest.job_name}/{made.stage} ({made.fingerprint})"
        if is_on_hub(self.location.uri):
            return self.location.uri
        return f"{self.location.name} ({fingerprint(self.identity)})"

    @cached_property
    def identity(self) -> list[Any]:
        """What a fingerprint holds of a folder that has no fingerprint of its own: what is in it,
        wherever it lies."""
        return [] if self.artifact else content_of(self.location)


def base_of(artifact: Artifact) -> BaseModel:
    return BaseModel(location=artifact.location / "model", artifact=artifact)


def resolve_base(reference: str, storage: Location, base_dir: Path) -> BaseModel:
    """The model that `finetune.base` or `serve.model` names.

    Raises:
        ArtifactError: no model lies there.
        LocationError: the Hugging Face Hub has no such model or revision.
        SourceError: the package that should hold it is not installed.
        StorageError: the Hub refuses to have it read, or cannot be asked.
    """
    location = locate_by_name(reference)
    if location is None:
        check_no_hub_id("a model", reference, base_dir)
        artifact = resolve_artifact(reference, storage, base_dir)
        if artifact is not None:
            return _checked(reference, base_of(artifact))
        location = Location.parse(reference, base_dir)
        if location.name == "model" and (owner := find_artifact(location.parent)) is not None:
            return _checked(reference, base_of(owner))  # the same by another name
    if not is_on_hub(reference):
        _check_is_finished(reference, location)
    if not (location / "config.json").exists():
        kind = ArtifactError if location.exists() else MissingArtifactError
        why = "has no config.json" if location.exists() else "does not exist"
        raise kind(
            f"{reference!r} is no model: {location} {why}; give a Hugging Face "
            "folder, hf://OWNER/NAME, python:PACKAGE/path, or RUN/STAGE of a finished run"
        )
    return BaseModel(location=location)


def _checked(reference: str, base: BaseModel) -> BaseModel:
    assert base.artifact is not None, "the caller found one"
    if not (base.location / "config.json").exists():
        raise ArtifactError(
            f"{reference!r} is no model: it is the result of {base.artifact.stage}, which makes "
            "none; give RUN/pretrain, RUN/finetune, RUN/compress or RUN/best"
        )
    return base


def _check_is_finished(reference: str, location: Location) -> None:
    """An execution without a manifest, or the model in it, may be half written."""
    for place in (location, location.parent):
        if (place / ATTEMPTS_FILE).exists() and not (place / FILE_NAME).exists():
            raise ArtifactError(
                f"{reference!r} is not finished: {place} has no {FILE_NAME}, which is written "
                "last. Run the job that makes it to its end"
            )


def examples_identity(spec: FinetuneSpec, base: BaseModel | None, base_dir: Path) -> dict[str, Any]:
    """What decides the examples of a fine-tuning, besides an artifact that is its base."""
    whole, task = spec.identity(), make_task(spec.task)
    files = read_files(spec.task, base_dir)
    identity = {name: whole[name] for name in EXAMPLE_FIELDS if name in whole} | {
        **sources_identity(spec.sources, base_dir),
        **sets_identity(spec.clean, base_dir),
        # Of a task without files nothing, so that its examples keep their name.
        **({"task_files": list(files.values())} if files else {}),
        "task": spec.task.examples_identity(),
        "task_version": task.version,
        "rows_version": ROWS_VERSION,
        "base": base and base.identity,
    }
    if spec.tokenizer:
        identity["tokenizer"] = tokenizer_identity(spec.tokenizer, base_dir)
    if task.base_readings:  # which the base makes in the format of the training
        identity |= {"base_readings": list(task.base_readings), "precision": spec.precision}
    return identity


def finetune_identity(
    spec: FinetuneSpec, base: BaseModel | None, teacher: BaseModel | None
) -> dict[str, Any]:
    """What decides the result of a fine-tuning, besides its input artifacts."""
    fields = spec.identity().items()
    identity = {name: value for name, value in fields if name not in EXAMPLE_FIELDS}
    identity |= teacher_identity(teacher)
    return identity | {"task": spec.task.identity(), "base": base and base.identity}


def teacher_identity(teacher: BaseModel | None) -> dict[str, Any]:
    """What a fingerprint holds of a teacher, besides an artifact that it is; without one nothing,
    so that what was made before keeps its name."""
    return {} if teacher is None else {"teacher": teacher.identity}


def check_teacher_classes(teacher: Location, labels: Sequence[str]) -> None:
    """Checks that a teacher tells the classes of the data apart, in the order of their numbers.

    Args:
        labels: of the data; none where the task has none.

    Raises:
        ArtifactError: it tells others.
    """
    told = classes_of((teacher / "config.json").read_json())
    if labels and told != [*labels]:
        raise ArtifactError(
            f"distill.teacher, {teacher}, tells the classes {_few(told)} apart, and the data has "
            f"{_few(labels)}: what it says of one would be learnt of another. Take a teacher that "
            "was trained on these classes"
        )


def classes_of(config: Mapping[str, Any]) -> list[str]:
    """The names of the classes that a model tells apart, in the order of their numbers."""
    named = config.get("id2label") or {}
    return [str(name) for _, name in sorted(named.items(), key=lambda each: int(each[0]))]


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown or "of no name"
