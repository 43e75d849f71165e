"""What a model is for: from its manifest, else from the architecture that its folder names."""

from __future__ import annotations

from raymodel.errors import ArtifactError
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS


def model_location(model: Artifact | Location) -> Location:
    """The Hugging Face folder: `model/` of an artifact, or a plain folder itself."""
    return model.location / "model" if isinstance(model, Artifact) else model


def find_task(model: Artifact | Location) -> str:
    """The task that a model was made for.

    Raises:
        ArtifactError: not a model folder, or one that no task fits.
    """
    config_file = model_location(model) / "config.json"
    if not config_file.exists():
        raise ArtifactError(
            f"{config_file} does not exist; a model is a Hugging Face folder with config.json, "
            "model.safetensors and a tokenizer. Set serve.model to such a folder or an artifact"
        )
    task = model.content.get("task") if isinstance(model, Artifact) else None
    architectures = _architectures(config_file)
    if task is None:
        task = _task_of_architecture(architectures)
    if task not in TASKS:
        raise ArtifactError(
            f"{config_file.parent} is a model for {task or architectures or 'no known task'}; "
            f"the tasks are {', '.join(TASKS)}. Give another model"
        )
    return str(task)


def _architectures(config_file: Location) -> list[str]:
    config = config_file.read_json()
    named = config.get("architectures") if isinstance(config, dict) else None
    return [str(name) for name in named] if isinstance(named, list) else []


def _task_of_architecture(architectures: list[str]) -> str | None:
    for task in TASKS.values():
        if any(name.endswith(task.architectures) for name in architectures):
            return task.name
    return None
