"""Writes the table of tasks in README.md from what the tasks say of themselves, and from the tests
that train them.

`python docs/table_of_tasks.py` puts it there; `tests/tasks/test_tasks_registry.py` holds that the
two are the same. A task has a way of training, such as LoRA, where `WAYS` of
`tests/train/test_train_ways.py` names it: each of these is a test that trains it so.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from raymodel.serve.load import service_of
from raymodel.tasks import TASKS
from raymodel.tasks.base import Task
from raymodel.tasks.fields import Field

README = Path(__file__).parents[1] / "README.md"
TESTS = Path(__file__).parents[1] / "tests/train/test_train_ways.py"
_COLUMNS = ("task", "roles of a record", "measures", "served at", "pretrain")
_TRAINED = ("LoRA", "ZeRO-3", "tensor", "sequence")
HEAD = f"| {' | '.join(_COLUMNS + _TRAINED)} |\n{'|---' * len(_COLUMNS + _TRAINED)}|\n"
"""The table begins with it, and ends with the first line that is no row."""


def table() -> str:
    """A row a task, in the order of the registry."""
    return HEAD + "".join(f"{_row(task)}\n" for task in TASKS.values())


def current() -> str:
    """What README.md has."""
    text = README.read_text()
    start = text.index(HEAD)
    rows = text[start:].splitlines(keepends=True)
    end = next(index for index, line in enumerate(rows) if not line.startswith("|"))
    return "".join(rows[:end])


def _row(task: type[Task]) -> str:
    cells = [
        f"`{task.name}`",
        ", ".join(_role(role, field) for role, field in task.fields.items()),
        ", ".join(task.measures),
        ", ".join(f"`{path}`" for path in _routes(task)),
        "yes" if task.can_pretrain else "",
        *("yes" if task.name in _ways()[way] else "" for way in _TRAINED),
    ]
    return f"| {' | '.join(cells)} |"


@cache
def _ways() -> dict[str, tuple[str, ...]]:
    """Way of training → the tasks that a test trains so."""
    for each in ast.parse(TESTS.read_text()).body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "WAYS":
            ways: dict[str, tuple[str, ...]] = ast.literal_eval(each.value)
            return ways
    raise ValueError(f"{TESTS} has no `WAYS`, which tells what is tested; write it again")


def _role(role: str, field: Field) -> str:
    shown = f"**{role}**" if field.is_target else role
    shown += "" if field.kind in ("text", role) else f" ({field.kind})"
    return f"[{shown}]" if field.is_optional else shown


def _routes(task: type[Task]) -> list[str]:
    """What a server of the task has besides what all have, without the other names of a route."""
    kind = service_of(task.name)
    service: Any = object.__new__(kind)
    service.task = task()
    service._given = {role: field for role, field in task.fields.items() if not field.is_target}
    service._required = [role for role, field in service._given.items() if not field.is_optional]
    paths = [route.path for route in service.router().routes]
    return [path for path in paths if not (re.match("/v[0-9]/", path) and path[3:] in paths)]


if __name__ == "__main__":
    README.write_text(README.read_text().replace(current(), table()))
