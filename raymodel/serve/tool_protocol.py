"""What goes over the wire for functions that a model may call.

Source: https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, field_validator

from raymodel.serve.bodies import MAX_DEPTH, depth_of
from raymodel.serve.protocol import Described, Ignored, Text, WireModel

_NAME_CHARS = 64


def _check_name(name: str) -> str:
    is_plain = name.isascii() and name.replace("_", "a").replace("-", "a").isalnum()
    if not is_plain or len(name) > _NAME_CHARS:
        raise ValueError(
            f"a function's name has 1 to {_NAME_CHARS} letters, digits, underscores and hyphens"
        )
    return name


FunctionName = Annotated[
    Text, Described(_check_name, {"pattern": rf"^[A-Za-z0-9_-]{{1,{_NAME_CHARS}}}$"})
]


class Function(WireModel):
    """A function of the client's."""

    name: FunctionName
    description: Text | None = None
    """What it is for, in words for the model."""
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object, its arguments; by default it has none."""
    strict: bool | None = None
    """Its arguments have this schema also where it may be called and need not."""

    @property
    def schema_(self) -> dict[str, Any]:
        """Of its arguments."""
        none = {"type": "object", "properties": {}, "additionalProperties": False}
        return none if self.parameters is None else self.parameters


class ToolEntry(WireModel):
    """Something that a model may use."""

    type: Literal["function"]
    """Only functions, which the client calls: this server calls nothing."""
    function: Function

    @property
    def shown(self) -> dict[str, Any]:
        """As chat templates take it, which look for all of these."""
        function = self.function
        told = {
            "name": function.name,
            "description": function.description or "",
            "parameters": function.schema_,
        }
        return {"type": "function", "function": told}


def _check_names(tools: list[ToolEntry]) -> list[ToolEntry]:
    names = [tool.function.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two functions are called {name!r}; give each a name of its own")
    return tools


Tools = Annotated[list[ToolEntry], AfterValidator(_check_names)]


class ChosenFunction(WireModel):
    """A function by its name."""

    name: Text


class NamedChoice(WireModel):
    """The function that must be called."""

    type: Literal["function"]
    function: ChosenFunction


def check_choice(choice: str | NamedChoice | None, tools: Sequence[ToolEntry]) -> None:
    """Raises ValueError for a choice among other functions than these."""
    names = [tool.function.name for tool in tools]
    if isinstance(choice, NamedChoice) and choice.function.name not in names:
        offered = ", ".join(names) or "none"
        raise ValueError(f"it names a function that is not among tools, which has {offered}")
    if choice == "required" and not names:
        raise ValueError("there are no tools to call; give some, or leave it out")


class CalledFunction(WireModel):
    """What an earlier answer called."""

    name: FunctionName
    arguments: Text
    """A JSON object, as a text; an empty one is no arguments."""

    @field_validator("arguments", mode="after")
    @classmethod
    def _is_object(cls, arguments: str) -> str:
        try:
            value = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or depth_of(value) > MAX_DEPTH:
            raise ValueError(
                "a call's arguments are a JSON object, written as a text, of at most "
                f"{MAX_DEPTH} levels"
            )
        return arguments


class ToolCall(WireModel):
    """A call that an earlier answer made."""

    id: Text
    """By which a turn with the result names it."""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Ignored = None

    @property
    def shown(self) -> dict[str, Any]:
        """As chat templates take it."""
        called = self.function
        arguments = json.loads(called.arguments or "{}")
        function = {"name": called.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}
