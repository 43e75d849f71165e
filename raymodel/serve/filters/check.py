"""What is known of a filter's model before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raymodel.errors import ArtifactError
from raymodel.serve.filters.spec import ClassifierFilterSpec
from raymodel.spec.fields import nearest
from raymodel.spec.show import show
from raymodel.storage.uri import Location
from raymodel.tasks import get_task


def role_of(spec: ClassifierFilterSpec, task_name: str) -> str:
    """The role of the texts that it is asked about. Raises ArtifactError for a task that tells no
    classes of a text."""
    task = get_task(task_name)
    given = {r: f.kind for r, f in task.fields.items() if not (f.is_target or f.is_optional)}
    if task.answers not in ("label", "labels") or list(given.values()) != ["text"]:
        raise ArtifactError(
            f"the filter `classifier` has {show(spec.model)}, a model for {task_name}; give one "
            "that tells classes of a text, for text_classification or multi_label_classification"
        )
    return next(iter(given))


def check_label(spec: ClassifierFilterSpec, labels: Sequence[str]) -> None:
    """Raises ArtifactError for a class that the model does not have."""
    if spec.label not in labels:
        close = nearest(spec.label, labels)
        hint = f"; did you mean {close!r}?" if close else ""
        raise ArtifactError(
            f"the filter `classifier` has the label {show(spec.label)}, which {show(spec.model)} "
            f"does not tell{hint} (it tells {', '.join(labels)})"
        )


def check_classifier(spec: ClassifierFilterSpec, folder: Location, task_name: str) -> None:
    """Raises ArtifactError for a model that does not tell the label of a text; loads none.

    Args:
        folder: of the model, with its config.json.
        task_name: what it was made for.
    """
    role_of(spec, task_name)
    named: Mapping[str, str] = (folder / "config.json").read_json().get("id2label") or {}
    if named:  # transformers counts from 0 where a model names none
        check_label(spec, [str(named[index]) for index in sorted(named, key=int)])
