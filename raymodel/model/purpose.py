"""What a model is for: from its manifest, else from what the configuration in its folder says."""

from __future__ import annotations

from typing import Any

from raymodel.errors import ArtifactError
from raymodel.spec.own import is_own
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS, get_task
from raymodel.tasks.spec import AnyTask, task_spec


def model_location(model: Artifact | Location) -> Location:
    """The Hugging Face folder: `model/` of an artifact, or a plain folder itself."""
    return model.location / "model" if isinstance(model, Artifact) else model


def find_task(model: Artifact | Location) -> str:
    """The task that a model was made for.

    Raises:
        ArtifactError: not a model folder, or one that no task fits; or its task is one of a user's
            own, which is not here.
    """
    config_file = model_location(model) / "config.json"
    if not config_file.exists():
        raise ArtifactError(
            f"{config_file} does not exist; a model is a Hugging Face folder with config.json, "
            "model.safetensors and a tokenizer. Set serve.model to such a folder or an artifact"
        )
    task = model.content.get("task") if isinstance(model, Artifact) else None
    config = config_file.read_json()
    architectures = _architectures(config)
    if task is None:
        task = _task_of(architectures, config)
    if task is not None and is_own(task):
        return _own_task(config_file.parent, task)
    if task not in TASKS:
        raise ArtifactError(
            f"{config_file.parent} is a model for {task or architectures or 'no known task'}; "
            f"the tasks are {', '.join(TASKS)}. Give another model"
        )
    return str(task)


def _own_task(folder: Location, task: str) -> str:
    """The name of a user's own task, which can be imported here."""
    try:
        get_task(task)
    except ValueError as error:
        raise ArtifactError(
            f"{folder} is a model for the task {error}; use it where that is the working directory"
        ) from error
    return task


def find_task_spec(model: Artifact | Location) -> AnyTask:
    """The task of `find_task`, as the job said it that made the model; else its defaults."""
    task = find_task(model)
    said = model.content.get("task_spec") if isinstance(model, Artifact) else None
    return task_spec(said or {"name": task})


def _architectures(config: Any) -> list[str]:
    named = config.get("architectures") if isinstance(config, dict) else None
    return [str(name) for name in named] if isinstance(named, list) else []


def _task_of(architectures: list[str], config: Any) -> str | None:
    """Of the tasks of an architecture those whose end of its name is the longest, as
    `Wav2Vec2ForSequenceClassification` is more than `ForSequenceClassification`; of these the one
    that the configuration names, else the first."""
    fitting = [
        (len(end), task)
        for task in TASKS.values()
        for end in task.architectures
        if any(name.endswith(end) for name in architectures)
    ]
    longest = max((length for length, _ in fitting), default=0)
    able = [task for length, task in fitting if length == longest]
    named = [task for task in able if task.is_named_by(config)]
    return next((task.name for task in [*named, *able]), None)
