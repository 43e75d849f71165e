"""What can be told of a method before a model is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymodel.tasks.base import WRITTEN, Task

if TYPE_CHECKING:
    from raymodel.compress.spec import Bits, CompressSpec


def is_written(task: type[Task]) -> bool:
    """Whether models of a task are computed by the engine that reads GGUF files."""
    return task.answers == "stream"


def why_not_quantised(task: type[Task], bits: Bits) -> str | None:
    """Why models of a task are not made of numbers of so many bits here; None where they are.

    What goes into a layer of 8 bits is rounded in one step over all rows of a batch. For a score or
    a vector that is a rounding; what is written token by token would go on differently from there.
    """
    if is_written(task):
        return None
    if task.answers in WRITTEN:
        return (
            f"{task.name} writes token by token, where a rounding that depends on what else is in "
            "the batch would change whole answers, and no engine reads its models in fewer bits; "
            "leave it out, or prune layers"
        )
    if bits == "int4":
        return (
            f"numbers of 4 bits are multiplied out by the engine of models that write, and "
            f"{task.name} is none of these; set it to int8"
        )
    return None


def wants_calibration(spec: CompressSpec, task: type[Task]) -> bool:
    """Whether a method looks at rows of training."""
    if spec.quantize is not None:
        return spec.quantize == "int4" and is_written(task)
    return spec.prune is not None and spec.prune.heads is not None
