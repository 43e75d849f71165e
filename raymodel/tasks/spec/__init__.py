"""`task:` and `objective:` what is learnt, and what a job may say of it; one class a task.

Each file has the tasks of a kind and, at its end, their union. A task that is added to one of them
is known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from raymodel.spec.fields import WrittenByName, by_name, own_name
from raymodel.spec.own import is_own
from raymodel.tasks.spec.audio import AudioTask
from raymodel.tasks.spec.base import OF_TRAINING, AnyChangedText, AnyTask
from raymodel.tasks.spec.image import ImageTask
from raymodel.tasks.spec.language import LanguageTask
from raymodel.tasks.spec.retrieval import RetrievalTask
from raymodel.tasks.spec.text import TextTask

__all__ = [
    "OF_TRAINING",
    "TASK_SPECS",
    "AnyChangedText",
    "AnyTask",
    "AnyTaskSpec",
    "TaskSpec",
    "default_spec",
    "task_spec",
]

AnyTaskSpec = LanguageTask | TextTask | ImageTask | RetrievalTask | AudioTask
TASK_SPECS: tuple[type[AnyTask], ...] = get_args(AnyTaskSpec)


def default_spec(name: str) -> AnyTask:
    """A task of which nothing is said."""
    kind: Any = next(spec for spec in TASK_SPECS if own_name(spec) == name)
    return kind()  # type: ignore[no-any-return]


def task_spec(data: Mapping[str, Any]) -> AnyTask:
    """A task by what `to_dict` gives of it."""
    name = str(data["name"])
    if is_own(name):
        from raymodel.tasks.own import read_own_task

        return read_own_task(dict(data))
    kind: Any = next(spec for spec in TASK_SPECS if own_name(spec) == name)
    return kind.model_validate(data)  # type: ignore[no-any-return]


def _read_task(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A task of this package by its name, a user's own by where its class is."""
    if isinstance(value, AnyTask):
        return value
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and is_own(name):
        from raymodel.tasks.own import read_own_task

        return read_own_task(value if isinstance(value, dict) else {"name": name})
    return read(by_name(value, TASK_SPECS, "a task"))


TaskSpec = Annotated[
    SerializeAsAny[AnyTaskSpec],
    Field(discriminator="name"),
    WrapValidator(_read_task),
    WrittenByName(takes_own=True),
]
"""A name, such as `text_classification`, or a mapping with `name` and what the task takes. The name
`module.path:Name` is a user's own task."""
