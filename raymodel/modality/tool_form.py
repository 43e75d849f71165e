"""How a model calls functions, as its chat template shows it.

Nothing here knows a model's name: the template is rendered with a function of a known name, and
with a turn in which the assistant calls it, and what stands around the two is the form. Known are
all forms in which a call is a JSON object with a name and arguments: Hermes' and Qwen's
`<tool_call>{…}</tool_call>`, Llama's bare object, Mistral's `[TOOL_CALLS] [{…}, {…}]`, and others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from raymodel.modality.chat import ChatError, ChatFormat, Turn

_NAMES = ("probe_one", "probe_two")
_ARGUMENTS = {"given": "seen"}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks.",
            "parameters": {
                "type": "object",
                "properties": {"given": {"type": "string", "description": "Where."}},
                "required": ["given"],
            },
        },
    }
    for name in _NAMES
]
_ASKED: Turn = {"role": "user", "content": "asked"}
_ANSWERED: Turn = {"role": "assistant", "content": "shown"}
_RESULT = "result000"


class CallForm(NamedTuple):
    """What a turn looks like in which the assistant calls functions."""

    opening: str
    """Before the object of the first call."""
    between: str | None
    """Between the objects of two; None where one turn has one call at most."""
    closing: str
    """After the last one."""
    keys: tuple[str, str]
    """Of a call's object, those of the name and of the arguments, in the order they stand in."""
    name_key: str
    trigger: str
    """That with which `opening` begins and by which it is told from text: a token that the
    tokenizer has for it, or its first word. Empty of a bare object or list, which is the whole
    answer."""
    special: dict[str, int]
    """Those special tokens, and their ids, that it is written with."""

    @property
    def arguments_key(self) -> str:
        """The other one."""
        return next(key for key in self.keys if key != self.name_key)


class _NoToolsError(ChatError):
    """What a template shows is not enough."""


def find_call_form(chat: ChatFormat) -> CallForm:
    """The form of a tokenizer's chat template.

    Raises:
        ChatError: it has none, or shows the model no functions, no calls or no results, or calls
            are written in a form that is not known here.
    """
    if not chat.has_template:
        raise ChatError("the model has no chat template, by which it would be shown tools")
    both = [_ASKED, _call(_NAMES[0]), _result(_NAMES[0])]
    try:
        prompt = chat.render([_ASKED], _TOOLS, is_prompt=True)
        if not all(name in prompt for name in _NAMES):
            raise _NoToolsError("the model's chat template shows it no tools")
        answered = chat.render([_ASKED, _ANSWERED], _TOOLS, is_prompt=False)
        called = chat.render(both[:2], _TOOLS, is_prompt=False)
        if _RESULT not in chat.render(both, _TOOLS, is_prompt=True):
            raise _NoToolsError("the model's chat template shows it no results of tools")
    except _NoToolsError:
        raise
    except ChatError as error:
        raise ChatError(f"the model's chat template takes no tools ({error})") from error
    before, after = _common(answered, called)
    written = called[before : len(called) - after]
    objects = list(_objects(written, _NAMES[:1]))
    if before < len(prompt) or len(objects) != 1:
        raise ChatError("the model's chat template writes calls of tools in a form not known here")
    [(start, end, call)] = objects
    opening, closing = written[:start], written[end:]
    name_key = next(key for key, value in call.items() if value == _NAMES[0])
    keys = [key for key, value in call.items() if value in (_NAMES[0], _ARGUMENTS)]
    return CallForm(
        opening=opening,
        between=_between(chat, before, after, opening),
        closing=closing,
        keys=(keys[0], keys[1]),
        name_key=name_key,
        trigger=_trigger(opening, chat.added_names),
        special={n: i for n, i in chat.special_ids.items() if n in opening + closing},
    )


def _call(*names: str) -> Turn:
    calls = [
        {
            "id": _id_of(name),
            "type": "function",
            "function": {"name": name, "arguments": dict(_ARGUMENTS)},
        }
        for name in names
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _result(name: str) -> Turn:
    return {"role": "tool", "content": _RESULT, "tool_call_id": _id_of(name), "name": name}


def _id_of(name: str) -> str:
    return f"probe000{_NAMES.index(name)}"  # nine letters and digits, which Mistral's insist on


def _common(one: str, other: str) -> tuple[int, int]:
    """How many characters two texts share at their beginnings, and then at their ends."""
    before = _num_same(one, other)
    return before, _num_same(one[before:][::-1], other[before:][::-1])


def _num_same(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _objects(text: str, names: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The objects that call functions, and where they lie."""
    decoder, end = json.JSONDecoder(), 0
    for found in re.finditer("{", text):
        if found.start() < end:
            continue
        try:
            value, after = decoder.raw_decode(text, found.start())
        except ValueError:
            continue
        is_call = _ARGUMENTS in value.values()
        if is_call and any(each in names for each in value.values() if isinstance(each, str)):
            end = after
            yield found.start(), after, value


def _between(chat: ChatFormat, before: int, after: int, opening: str) -> str | None:
    try:
        text = chat.render([_ASKED, _call(*_NAMES)], _TOOLS, is_prompt=False)
    except ChatError:  # which says that there may be only one
        return None
    written = text[before : len(text) - after]
    objects = list(_objects(written, _NAMES))
    if len(objects) != len(_NAMES) or not written.startswith(opening):
        return None
    return written[objects[0][1] : objects[1][0]]


def _trigger(opening: str, added: Sequence[str]) -> str:
    text = opening.lstrip()
    if text.strip() in ("", "["):
        return ""
    return max((name for name in added if text.startswith(name)), key=len, default=text.split()[0])
