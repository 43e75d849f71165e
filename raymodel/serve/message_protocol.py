"""What goes over the wire for the turns of a conversation.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator

from raymodel.modality.chat import Turn
from raymodel.serve.protocol import Ignored, Text, WireModel, unless
from raymodel.serve.tool_protocol import ToolCall


def system_for_developer(role: str) -> str:
    """The role as templates know it."""
    return "system" if role == "developer" else role


class TextPart(WireModel):
    """A piece of a message."""

    type: Literal["text"]
    """Only text: this model neither sees nor hears."""
    text: Text


_NULL, _SAID = {"type": "null"}, {"not": {"type": "null"}}
# What the validators below ask of each role, for who reads `/openapi.json`.
_BY_ROLE: list[Any] = [
    {"properties": {"role": {"enum": ["assistant"]}, "tool_call_id": _NULL}},
    {
        "properties": {
            "role": {"enum": ["system", "developer", "user"]},
            "content": _SAID,
            "tool_calls": _NULL,
            "tool_call_id": _NULL,
        },
        "required": ["content"],
    },
    {
        "properties": {
            "role": {"enum": ["tool"]},
            "content": _SAID,
            "tool_calls": _NULL,
            "tool_call_id": _SAID,
        },
        "required": ["content", "tool_call_id"],
    },
]


class Message(WireModel):
    """One turn of a conversation."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _BY_ROLE})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """`tool` brings the result of a call."""
    content: Text | list[TextPart] | None = Field(default=None, validate_default=True)
    """A text, or its parts; null for an answer that said nothing, or called a tool."""
    name: Text | None = None
    """Of a function whose result this is; of others it has no effect."""
    refusal: Annotated[Any, unless("")] = None
    annotations: Ignored = None
    tool_calls: list[ToolCall] | None = None
    """What an answer called."""
    tool_call_id: Text | None = Field(default=None, validate_default=True)
    """The call whose result this is."""
    function_call: Annotated[Any, unless()] = None
    audio: Annotated[Any, unless()] = None
    reasoning_content: Ignored = None

    @field_validator("content", mode="after")
    @classmethod
    def _said(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role") not in (None, "assistant"):
            raise ValueError(f"a turn of the {info.data['role']} says something; give a text")
        return content

    @field_validator("tool_calls", mode="after")
    @classmethod
    def _called(cls, calls: Any, info: ValidationInfo) -> Any:
        if calls and info.data.get("role") not in (None, "assistant"):
            raise ValueError(f"the assistant calls tools, and the role is {info.data['role']}")
        return calls

    @field_validator("tool_call_id", mode="after")
    @classmethod
    def _of_a_result(cls, identity: str | None, info: ValidationInfo) -> str | None:
        role = info.data.get("role", "tool" if identity else "")
        if identity is None and role == "tool":
            raise ValueError("a result says which call it is of; give the id of the call")
        if identity is not None and role != "tool":
            raise ValueError(f"results have the role tool, and the role is {role}")
        return identity

    @property
    def text(self) -> str:
        """The parts joined."""
        parts = [] if self.content is None else self.content
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


def _check_results(messages: list[Message]) -> list[Message]:
    """Every result is of a call before it."""
    called: set[str] = set()
    for place, message in enumerate(messages):
        called |= {call.id for call in message.tool_calls or ()}
        identity = message.tool_call_id
        if identity is not None and identity not in called:
            raise ValueError(
                f"turn {place} has the result of a call {ascii(identity)[:80]}, which no turn "
                "before it makes; send the answer with its tool_calls too"
            )
    return messages


Messages = Annotated[list[Message], Field(min_length=1), AfterValidator(_check_results)]


def read_turns(messages: Sequence[Message]) -> list[Turn]:
    """As chat templates take them: a `developer`, which is OpenAI's newer name, is a `system`, and
    a result has the name of its function."""
    names: dict[str, str] = {}
    turns: list[Turn] = []
    for message in messages:
        turn: dict[str, Any] = {
            "role": system_for_developer(message.role),
            "content": message.text,
        }
        if message.tool_calls:
            names |= {call.id: call.function.name for call in message.tool_calls}
            turn["tool_calls"] = [call.shown for call in message.tool_calls]
        if message.tool_call_id is not None:
            turn["tool_call_id"] = message.tool_call_id
            turn["name"] = message.name or names[message.tool_call_id]
        turns.append(turn)
    return turns
