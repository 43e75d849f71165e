"""What can be told of a method before a model is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymodel.tasks.base import WRITTEN, Task

if TYPE_CHECKING:
    from raymodel.compress.spec import Bits, CompressSpec, Format


def is_written(task: type[Task]) -> bool:
    """Whether models of a task are computed by the engine that reads GGUF files."""
    return task.answers == "stream"


def format_of(task: type[Task], bits: Bits, asked: Format | None) -> Format:
    """What the folder of a model in fewer bits holds, by what `compress.format` says."""
    is_gguf = is_written(task) and bits != "fp8"
    return asked or ("gguf" if is_gguf else "compressed-tensors")


def why_not_quantised(task: type[Task], bits: Bits, asked: Format | None = None) -> str | None:
    """Why models of a task are not made of numbers of so many bits here; None where they are.

    Args:
        asked: what `compress.format` says.
    """
    if is_written(task):
        return None
    if task.answers in WRITTEN:
        return (
            f"{task.name} writes token by token, where a rounding that depends on what else is in "
            "the batch would change whole answers, and no engine reads its models in fewer bits; "
            "leave it out, or prune layers"
        )
    if asked == "gguf":
        return (
            f"GGUF files are of models that write, and {task.name} is none of these; leave "
            "`format` out"
        )
    if bits != "int8":
        return (
            f"with {bits} compute engines of models that write, and {task.name} is none of these; "
            "set it to int8"
        )
    return None


def wants_calibration(spec: CompressSpec, task: type[Task]) -> bool:
    """Whether a method looks at rows of training."""
    if spec.quantize is not None:
        return spec.quantize == "int4" and is_written(task)
    return spec.prune is not None and spec.prune.heads is not None
