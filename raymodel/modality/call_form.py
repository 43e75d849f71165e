"""The form in which a model writes calls of functions: what stands around names and arguments."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from raymodel.modality.chat import ChatError, Turn

# A noncharacter, which no template writes: here stands a word that is another each time, such as
# the id of a call, its number or the type of a value.
HOLE = "\ufdd2"
WORD = frozenset(string.ascii_letters + string.digits + "_")
"""What such a word is made of."""


class Opening(NamedTuple):
    """What stands before the first call."""

    text: str
    trigger: str
    """Its beginning, by which it is told from text: a token that the tokenizer has for it, or its
    first word. Empty where the first call is the beginning of the answer."""


class ObjectCall(NamedTuple):
    """A call is a JSON object, with its name and arguments among its members."""

    keys: tuple[str, str]
    """Those of the name and of the arguments, in the order they stand in."""
    name_key: str
    others: tuple[str, ...] = ()
    """Keys that may stand beside them."""

    @property
    def arguments_key(self) -> str:
        """The other one."""
        return next(key for key in self.keys if key != self.name_key)


class Tags(NamedTuple):
    """Arguments one by one, `<parameter=key>value</parameter>`: texts as they are, and other values
    as JSON."""

    before_key: str
    before_value: str
    after_value: str


class NamedCall(NamedTuple):
    """A call is the function's name as it is, and then its arguments."""

    after_name: str
    arguments: Literal["json", "python"] | Tags
    """A JSON object; `key=value, …)` as Python writes it; or between tags."""


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """What a turn looks like in which the assistant calls functions."""

    openings: tuple[Opening, ...]
    """The one that the chat template writes, and then others that models are known to write."""
    between: str | None
    """Between two calls; None where one turn has one call at most."""
    closing: str
    """After the last one."""
    call: ObjectCall | NamedCall
    special: Mapping[str, int] = field(default_factory=dict)
    """Those special tokens, and their ids, that it is written with."""
    takes_text: bool = False
    """The template takes arguments as JSON in a text, and not as values."""
    is_templates: bool = True
    """The template writes calls. Else the turns that it is given hold them as text."""

    @property
    def opening(self) -> str:
        """The one that the template writes."""
        return self.openings[0].text

    @property
    def trigger(self) -> str:
        """Of that one."""
        return self.openings[0].trigger

    @property
    def literals(self) -> tuple[str, ...]:
        """All that is written alike in each call."""
        texts = [*(opening.text for opening in self.openings), self.between or "", self.closing]
        if isinstance(self.call, NamedCall):
            texts.append(self.call.after_name)
            if isinstance(self.call.arguments, Tags):
                texts += self.call.arguments
        return tuple(texts)

    @property
    def told(self) -> str:
        """In short."""
        match self.call:
            case ObjectCall():
                shown = "{…}"
            case NamedCall(after, Tags(key, value, end)):
                shown = f"…{after}{key}…{value}…{end}"
            case NamedCall(after, "json"):
                shown = f"…{after}{{…}}"
            case NamedCall(after, _):
                shown = f"…{after}…)"
        return f"{self.opening}{shown}{self.closing}".strip().replace(HOLE, "…")

    def turns(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """Turns as the template takes them, which have arguments as values.

        Raises:
            ChatError: one turn has more calls than the form has room for.
        """
        if self.is_templates and not self.takes_text:
            return turns
        return [self._turn(turn) if turn.get("tool_calls") else turn for turn in turns]

    def _turn(self, turn: Turn) -> Turn:
        if not self.is_templates:
            kept = {key: value for key, value in turn.items() if key != "tool_calls"}
            return {**kept, "content": turn["content"] + self.written(turn["tool_calls"])}
        calls = []
        for call in turn["tool_calls"]:
            arguments = _json(call["function"]["arguments"])
            calls.append({**call, "function": {**call["function"], "arguments": arguments}})
        return {**turn, "tool_calls": calls}

    def written(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls as the model would have written them. Raises ChatError for too many."""
        if len(calls) > 1 and self.between is None:
            raise ChatError("a turn that calls more than one function, which this model cannot")
        functions = [call["function"] for call in calls]
        texts = [self._call(each["name"], each["arguments"]) for each in functions]
        return self.opening + (self.between or "").join(texts) + self.closing

    def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        match self.call:
            case ObjectCall(keys, name_key):
                return _json({key: name if key == name_key else arguments for key in keys})
            case NamedCall(after, Tags(before_key, before_value, after_value)):
                return name + after + "".join(
                    before_key + key + before_value + _bare(value) + after_value
                    for key, value in arguments.items()
                )  # fmt: skip
            case NamedCall(after, "json"):
                return name + after + _json(arguments)
            case NamedCall(after, _):
                given = ", ".join(f"{key}={python(value)}" for key, value in arguments.items())
                return f"{name}{after}{given})"


def find_end(text: str, expected: str) -> int | None:
    """Where `expected` ends at the beginning of a text, whatever spaces either has; None when the
    text is too short to tell, -1 when it says something else."""
    place = 0
    for character in "".join(expected.split()):
        while place < len(text) and text[place].isspace():
            place += 1
        if character == HOLE:
            while place < len(text) and text[place] in WORD:
                place += 1
            continue
        if place == len(text):
            return None
        if text[place] != character:
            return -1
        place += 1
    return place


def python(value: Any) -> str:
    """A value of JSON as Python writes it."""
    match value:
        case None | bool():
            return str(value)
        case Mapping():
            items = (f"{_json(key)}: {python(each)}" for key, each in value.items())
            return "{" + ", ".join(items) + "}"
        case list():
            return "[" + ", ".join(map(python, value)) + "]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)
