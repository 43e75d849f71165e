"""What a task calls its model with while it answers, and whether another engine can be called so.

This is the one place that says which tasks can have their model compiled: those that call it as a
whole, with tensors by name, and take tensors by name. Who has the model write (`generate`), calls a
part of it, or hands it anything else, keeps it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raymodel.serve.passes import tensors_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Call:
    """One call of a model."""

    inputs: Mapping[str, Any]
    """By name; those by position as `0`, `1`, …"""
    outputs: Mapping[str, torch.Tensor]
    """The tensors that came of it."""
    kind: type
    """Of what they came in."""

    @property
    def first(self) -> torch.Tensor:
        """The input whose size says how much there is to compute."""
        first: torch.Tensor = next(iter(self.inputs.values()))
        return first


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[list[Call]]:
    """The calls of a model while this is open, those of its parts not among them."""
    calls: list[Call] = []

    def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = {str(place): value for place, value in enumerate(args)} | kwargs
        outputs = tensors_of(output) if isinstance(output, Mapping) else {}
        calls.append(Call(given, outputs, type(output)))

    hook = model.register_forward_hook(look, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def find_obstacle(calls: Iterable[Call]) -> str | None:
    """Why nothing but the model itself can be called so; None when something else can."""
    calls = list(calls)
    if not calls:
        return "its task does not call the model as a whole"
    for call in calls:
        if any(name.isdigit() for name in call.inputs):
            return "its task gives the model inputs without names"
        for name, value in call.inputs.items():
            if not isinstance(value, torch.Tensor):
                return f"its task calls the model with {name}, which is no tensor"
        if not call.inputs or not call.outputs:
            return "its task calls the model with no tensors, or none come back"
    return None
