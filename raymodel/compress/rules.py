"""What can be told of a method before a model is opened."""

from __future__ import annotations

from raymodel.tasks.base import WRITTEN, Task


def why_no_int8(task: type[Task]) -> str | None:
    """Why models of a task are not computed in 8 bits here; None where they are.

    What goes into a layer is rounded in one step over all rows of a batch. For a score or a vector
    that is a rounding; what is written token by token would go on differently from there.
    """
    if task.answers not in WRITTEN:
        return None
    return (
        f"{task.name} writes token by token, where a rounding that depends on what else is in the "
        "batch would change whole answers; leave it out, and serve a causal_lm with 8 bits by "
        "`serve.weights: q8_0`"
    )
