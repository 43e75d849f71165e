"""The tasks by name. Loads neither torch, pyarrow nor transformers."""

from __future__ import annotations

import difflib
from types import MappingProxyType

from raymodel.tasks.base import Task
from raymodel.tasks.causal_lm import CausalLM
from raymodel.tasks.text_classification import TextClassification

TASKS = MappingProxyType({task.name: task for task in (CausalLM, TextClassification)})


def get_task(name: str) -> type[Task]:
    """The task class called `name`. Raises ValueError with the nearest name for any other."""
    if name in TASKS:
        return TASKS[name]
    nearest = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}{hint}")
