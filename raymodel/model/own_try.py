"""A user's own module is tried before anything starts: a forward on a few rows that hold nothing.

Shapes: B rows, T tokens, C classes, V ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from raymodel.errors import SpecError
from raymodel.model.counted import Row
from raymodel.model.own import OwnModel
from raymodel.model.own_module import one_line
from raymodel.spec.show import show

if TYPE_CHECKING:
    from raymodel.tasks.base import Task

_SMALL = 50_000_000
"""Elements of a module that is made for a try where the meta device does not do."""
_ROWS = 2


def check_forward(model: OwnModel, task: Task, row: Row) -> None:
    """Runs the forward on two rows of ones.

    Args:
        model: on the meta device, where it is tried first.
        row: argument → shape and kind, of one row.

    Raises:
        SpecError: it fails, or gives no logits of the task's shape.
    """
    try:
        logits = _try_forward(model, row, "meta")
    except Exception as error:
        if not _asks_for_values(error) or _num_elements(model) > _SMALL:
            if _asks_for_values(error):
                return  # seen when it trains
            raise _failed(model, row, error) from error
        try:
            with torch.random.fork_rng(devices=[]):
                logits = _try_forward(type(model)(model.config), row, "cpu")
        except Exception as error_here:
            raise _failed(model, row, error_here) from error_here
    _check_shape(model, task, row, tuple(logits.shape))


@torch.no_grad()
def _try_forward(model: OwnModel, row: Row, device: str) -> torch.Tensor:
    types = {"ids": torch.long, "numbers": torch.float32}
    model.train(False)
    try:
        batch = {
            name: torch.ones((_ROWS, *each.shape), dtype=types[each.kind], device=device)
            for name, each in row.items()
        }
        logits: torch.Tensor = model(**batch).logits
    finally:
        model.train(True)
    return logits


def _asks_for_values(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def _num_elements(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in model.parameters())


def _failed(model: OwnModel, row: Row, error: Exception) -> SpecError:
    if isinstance(error, SpecError):
        return error
    shapes = ", ".join(f"{name} {(_ROWS, *each.shape)}" for name, each in row.items())
    return SpecError(
        f"model.module: the forward of {show(model.config.module)} ended in "
        f"{type(error).__name__}: {one_line(error)}; it was given {shapes}"
    )


def _check_shape(model: OwnModel, task: Task, row: Row, seen: tuple[int, ...]) -> None:
    if task.logits is None:
        return
    tokens = next(iter(row.values())).shape[0]
    sizes: dict[str, int] = {"B": _ROWS, "T": tokens, "C": int(model.config.num_labels or 0)}
    sizes["V"] = model.config.offered.get("vocab_size", seen[-1] if seen else 0)
    wanted = tuple(sizes[letter] for letter in task.logits)
    if task.logits.endswith("V") and seen[:-1] == wanted[:-1] and seen[-1:] > wanted[-1:]:
        return  # ids that no text becomes
    if seen == wanted:
        return
    words = {"B": "rows", "T": "tokens", "C": "classes", "V": "ids"}
    named = " × ".join(words[letter] for letter in task.logits)
    raise SpecError(
        f"model.module: the forward of {show(model.config.module)} gives logits of shape {seen}, "
        f"and {task.name} needs {wanted}: {named}; num_labels and vocab_size are given to a "
        "constructor that asks for them"
    )
