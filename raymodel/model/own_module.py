"""The class of a user's own module: how it is made, what its forward takes, what that gives."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raymodel.errors import SpecError
from raymodel.spec.fields import nearest
from raymodel.spec.own import load_own
from raymodel.spec.show import show

if TYPE_CHECKING:
    from raymodel.model.own import OwnConfig


def build_module(config: OwnConfig) -> nn.Module:
    """The user's module, on the device that is the default.

    Raises:
        SpecError: it is no module, or cannot be made with its arguments.
    """
    kind = load_module(config.module)
    arguments = _arguments(kind, config)
    try:
        module: nn.Module = kind(**arguments)
    except Exception as error:  # a user's class may end in anything
        written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise SpecError(
            f"model.module: {kind.__name__}({written}) ended in {type(error).__name__}: "
            f"{one_line(error)}; mend the class, or its arguments below model.config"
        ) from error
    if not any(True for _ in module.parameters()):
        raise SpecError(
            f"model.module: {show(config.module)} has no parameters, so that there is nothing to "
            "train; give it layers in its constructor, as attributes"
        )
    return module


def load_module(reference: str) -> type[nn.Module]:
    """The class that a job names. Raises SpecError where it is no module."""
    try:
        kind = load_own(reference)
    except ValueError as error:
        raise SpecError(f"model.module: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        what = (
            f"the class {kind.__name__}" if isinstance(kind, type) else f"a {type(kind).__name__}"
        )
        raise SpecError(
            f"model.module: {show(reference)} is {what}; a model is a class derived from "
            "torch.nn.Module"
        )
    return kind


def _arguments(kind: type[nn.Module], config: OwnConfig) -> dict[str, Any]:
    """Those of the job, and what else the constructor asks for by name of what is offered."""
    offered = {"num_labels": config.num_labels, **config.offered}
    taken = inspect.signature(kind).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    for name in config.arguments:
        if name not in taken and not takes_any:
            close = nearest(name, taken)
            hint = f"; did you mean {close!r}?" if close else ""
            raise SpecError(
                f"model.config.{name} is no argument of {kind.__name__}, which takes "
                f"{', '.join(taken) or 'none'}{hint}"
            )
    given = {**{name: v for name, v in offered.items() if name in taken}, **config.arguments}
    lacking = [
        name
        for name, each in taken.items()
        if each.default is each.empty
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and name not in given
    ]
    if lacking:
        raise SpecError(
            f"model.config lacks {', '.join(lacking)}, which {kind.__name__} takes; give it there. "
            f"What data and task offer by these names comes by itself: {', '.join(offered)}"
        )
    return given


def named_inputs(module: nn.Module) -> tuple[tuple[str, ...], bool]:
    """What its forward names, and whether it takes any other too."""
    taken = inspect.signature(module.forward).parameters.values()
    names = [
        each.name for each in taken if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    return tuple(names), any(each.kind is each.VAR_KEYWORD for each in taken)


def logits_of(found: Any, module: nn.Module) -> torch.Tensor:
    logits = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", found)
    if isinstance(logits, torch.Tensor):
        return logits
    raise SpecError(
        f"model.module: the forward of {type(module).__name__} gives a {type(found).__name__}; it "
        "must give logits: a tensor, or a mapping or an object with `logits`"
    )


def one_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split())
