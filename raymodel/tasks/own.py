"""A user's own task, measure or cleaning step: what `module.path:Name` must lead to."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.modality import MODALITIES
from raymodel.spec.document import dotted
from raymodel.spec.own import load_own
from raymodel.spec.problems import find_problems
from raymodel.spec.show import show
from raymodel.tasks.base import Answer, Measure, Task
from raymodel.tasks.fields import Field

if TYPE_CHECKING:
    from raymodel.tasks.spec import AnyTask

Step = Callable[[str], str | None]
"""A text → what is kept of it; None where its document is to be left out."""

_SAYS = (
    *("modality", "auto_class", "architectures", "pipeline_tag", "peft_task"),
    *("fields", "measures", "answers"),
)
"""What the class of a task must say."""


def own_task(reference: str) -> type[Task]:
    """The class of a user's own task, whose name is where it was found.

    Raises:
        SpecError: there is none, or it lacks something.
    """
    kind = load_own(reference)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise SpecError(
            f"{show(reference)} is {_called(kind)}; a task is a class derived from "
            "raymodel.tasks.base.Task, or from a task of raymodel"
        )
    lacking = [f"{name}()" for name in sorted(kind.__abstractmethods__)]
    lacking += [name for name in _SAYS if not hasattr(kind, name)]
    if lacking:
        raise SpecError(
            f"the task {show(reference)} lacks {', '.join(lacking)}; raymodel/tasks/base/ says "
            "what each is for, and docs/own/ has one to begin with"
        )
    if not kind.fields or not all(isinstance(each, Field) for each in kind.fields.values()):
        raise SpecError(
            f"`fields` of the task {show(reference)} must be roles, each with a "
            'raymodel.tasks.fields.Field, such as {"text": Field(kind="text", default="{text}")}'
        )
    if kind.modality not in MODALITIES:
        raise SpecError(
            f"`modality` of the task {show(reference)} is {show(kind.modality)}; what is read is "
            f"one of {', '.join(MODALITIES)}"
        )
    kind.name = reference
    return kind


def read_own_task(data: Mapping[str, Any]) -> AnyTask:
    """The section of a user's own task. Raises SpecError alike, or for a field that is wrong."""
    reference = str(data["name"])
    spec_class = _spec_class(own_task(reference))
    try:
        return spec_class.model_validate(dict(data))
    except ValidationError as error:
        problems = find_problems(error, spec_class, dict(data))
        said = "; ".join(f"{dotted(each.path)}: {each.message}" for each in problems)
        raise SpecError(f"task {show(reference)}: {said}") from error


def _spec_class(kind: type[Task]) -> type[AnyTask]:
    """What the class declares; of one derived from a task of raymodel whose fields are those that
    several tasks share, the class that they share."""
    from raymodel.tasks.spec import TASK_SPECS, AnyChangedText, AnyTask

    said = kind.spec_class
    if said is not None:
        if not (isinstance(said, type) and issubclass(said, AnyTask)):
            raise SpecError(
                f"`spec_class` of {kind.name!r} is {_called(said)}; it must be a class derived "
                "from raymodel.tasks.spec.AnyTask"
            )
        return said
    names = [base.__dict__.get("name") for base in kind.__mro__[1:]]
    for spec in TASK_SPECS:
        if spec.model_fields["name"].default in names:
            for shared in (AnyTask, AnyChangedText):
                if spec.model_fields.keys() == shared.model_fields.keys():
                    return shared
            raise SpecError(
                f"{kind.name!r} is derived from {spec.model_fields['name'].default}, of which a "
                "job says more than its name; give it a `spec_class`, derived from "
                f"{spec.__module__}.{spec.__name__} and with `name: str`"
            )
    return AnyTask


@dataclass(frozen=True)
class OwnMeasure:
    """A user's own measure."""

    reference: str
    score: Callable[[Sequence[Answer], Sequence[Any]], float]
    higher_is_better: bool

    def __call__(self, answers: Sequence[Answer], references: Sequence[Any]) -> float:
        """Raises SpecError where it gives no number."""
        try:
            value = self.score(answers, references)
            return math.nan if value is None else float(value)
        except Exception as error:  # a user's function may end in anything
            raise SpecError(
                f"the measure {show(self.reference)} ended in {type(error).__name__}: {error}; it "
                "takes lists of answers and of references and gives a number"
            ) from error


def own_measure(reference: str) -> OwnMeasure:
    """A function of answers and references, or an object of a class without arguments that can be
    called so; `higher_is_better` of it says which way it goes.

    Raises:
        SpecError: it is none.
    """
    found = load_own(reference)
    if isinstance(found, type):
        found = _made(reference, found)
    _check_call(reference, found, "a measure", ("answers", "references"))
    direction = getattr(found, "higher_is_better", None)
    if not isinstance(direction, bool):
        name = reference.partition(":")[2]
        raise SpecError(
            f"the measure {show(reference)} does not say which way it goes; write "
            f"{name}.higher_is_better = True (or False) below it"
        )
    return OwnMeasure(reference, found, direction)


def measure_named(task: type[Task] | Task, name: str) -> Measure:
    """A measure of a task, or a user's own, which needs answers. `name` is known."""
    if name in task.measures:
        return task.measures[name]
    return Measure(needs="answers", higher_is_better=own_measure(name).higher_is_better)


@functools.cache
def own_step(reference: str) -> Step:
    """A function of one text, which gives the text to keep, or None.

    Raises:
        SpecError: it is none.
    """
    found = load_own(reference)
    _check_call(reference, found, "a cleaning step", ("text",))
    return cast("Step", found)


def _made(reference: str, kind: type) -> Any:
    try:
        return kind()
    except Exception as error:
        raise SpecError(
            f"{show(reference)}: {kind.__name__}() ended in {type(error).__name__}: {error}; a "
            "measure that is a class is made without arguments"
        ) from error


def _check_call(reference: str, found: Any, what: str, arguments: tuple[str, ...]) -> None:
    taken = ", ".join(arguments)
    if not callable(found) or isinstance(found, type):
        raise SpecError(f"{show(reference)} is {_called(found)}; {what} is a function of ({taken})")
    try:
        inspect.signature(found).bind(*arguments)
    except TypeError as error:
        raise SpecError(
            f"{show(reference)} cannot be called with ({taken}): {error}; {what} takes these, by "
            "position"
        ) from error
    except ValueError:
        return  # compiled, which says nothing of its arguments


def _called(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"a {type(found).__name__}"
