"""Conversations as records hold them, read into turns: `role` and `content`.

Three ways of writing one are known. OpenAI's: a list of `{role, content}`. ShareGPT's: a list of
`{from, value}`. Alpaca's: the fields `instruction`, `input` and `output`. A list is told from the
keys of its turns, whatever its field is called; which field it is, a source says or is found. A
list that begins with an answer follows what the field `prompt` holds: a text, or a list of turns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from raymodel.tasks.template import FieldTypeError, RecordError, described, text_in_field

Turn = dict[str, str]
"""`role` (`system`, `user` or `assistant`) and `content`."""
LIST_FIELDS = ("messages", "conversations", "conversation")
"""Where a list of turns is looked for, the first of them first."""
ALPACA = ("instruction", "output")
"""The fields that tell Alpaca's; `input` and `system` may be beside them, and `history`."""
_ROLES = MappingProxyType(
    {
        **dict.fromkeys(("system", "developer"), "system"),
        **dict.fromkeys(("user", "human"), "user"),
        **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model"), "assistant"),
    }
)
_OF_TOOLS = frozenset({"tool", "function", "function_call", "observation"})
_PROMPT = "prompt"
_NO_CONVERSATION = "record without messages, conversations, or instruction and output"


class Form(NamedTuple):
    """How a record writes its conversation."""

    field: str | None
    """The list's; None for the fields of Alpaca."""
    text: str
    """In words."""


def find_form(record: Mapping[str, Any], named: str) -> Form:
    """How a record writes its conversation.

    Args:
        named: the field of the list; empty where it is to be found.

    Raises:
        RecordError: it has none.
        FieldTypeError: the field holds what is no list of turns.
    """
    field = named or next((name for name in LIST_FIELDS if record.get(name) is not None), "")
    if not field and all(record.get(name) is not None for name in ALPACA):
        return Form(None, "instruction, input and output, as Alpaca has them")
    value = record.get(field)
    if value is None:
        reason = f"record without a value in {named!r}" if named else _NO_CONVERSATION
        raise RecordError(f"{reason}; it has {', '.join(record) or 'no fields'}", reason)
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise FieldTypeError(
            f"the field {field!r} holds {described(value)}; a conversation is a list of turns, "
            "such as {role: user, content: Hello}. Name the field that holds one"
        )
    style = "ShareGPT" if value and is_turn(value[0]) and "from" in value[0] else "OpenAI"
    after = f" after {_PROMPT!r}" if value and _follows(value[0], record) else ""
    return Form(field, f"turns in {field!r}{after}, as {style} writes them")


def is_turn(value: Any) -> bool:
    """Whether this is a turn of a conversation, by its keys."""
    return isinstance(value, Mapping) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def read_turns(record: Mapping[str, Any], named: str) -> list[Turn]:
    """The turns of a record, up to the assistant's last: nothing is learnt of what follows.

    Raises:
        RecordError: no conversation, or one that cannot be learnt from; see `check_turns`.
        FieldTypeError: the field holds something else.
    """
    form = find_form(record, named)
    if record.get("tools") or record.get("functions"):
        raise _left_out("conversation with tools")
    turns = _alpaca(record) if form.field is None else _listed(record, form.field)
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
    check_turns(turns[: last + 1])
    return turns[: last + 1]


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises RecordError unless user and assistant take turns, the user first, and all say
    something. Turns of the system may be anywhere; the template says whether it takes them."""
    if not turns:
        raise _left_out("conversation without an answer")
    if any(not turn["content"].strip() for turn in turns):
        raise _left_out("conversation with a turn without content")
    speakers = [turn["role"] for turn in turns if turn["role"] != "system"]
    if speakers[0] == "assistant":
        raise _left_out("conversation that begins with the assistant")
    if any(one == other for one, other in pairwise(speakers)):
        raise _left_out("conversation with two turns of one role in a row")


def opening(turns: Sequence[Turn]) -> list[str]:
    """What is said before the first answer: conversations that share it belong together."""
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    return [part for turn in turns[:first] for part in (turn["role"], turn["content"])]


def shown(turns: Sequence[Turn]) -> str:
    """A conversation as a person reads it."""
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _listed(record: Mapping[str, Any], field: str) -> list[Turn]:
    beside = _text(record, "system") if "system" in record else ""
    turns = [_turn(turn) for turn in record[field]]
    if turns and _follows(record[field][0], record):
        turns = [*_prompt(record[_PROMPT]), *turns]
    has_own = bool(turns) and turns[0]["role"] == "system"
    return [*_said("system", "" if has_own else beside), *turns]


def _follows(first: Any, record: Mapping[str, Any]) -> bool:
    """Whether a list of turns that begins with this one goes on from a prompt."""
    role = first.get("role", first.get("from")) if is_turn(first) else None
    return _ROLES.get(str(role)) == "assistant" and record.get(_PROMPT) is not None


def _prompt(value: Any) -> list[Turn]:
    if isinstance(value, str):
        return _said("user", value)
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise _left_out("conversation whose prompt is neither a text nor a list of turns")
    return [_turn(turn) for turn in value]


def _alpaca(record: Mapping[str, Any]) -> list[Turn]:
    """The instruction, and below it the input where there is one; older exchanges before it."""
    asked = [_text(record, name) for name in ("instruction", "input")]
    return [
        *_said("system", _text(record, "system")),
        *_history(record.get("history") or []),
        {"role": "user", "content": "\n\n".join(part for part in asked if part.strip())},
        {"role": "assistant", "content": _text(record, "output")},
    ]


def _history(exchanges: Any) -> Iterator[Turn]:
    for pair in exchanges:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(p, str) for p in pair)
        ):
            raise _left_out("record whose history is no list of questions with their answers")
        yield {"role": "user", "content": pair[0]}
        yield {"role": "assistant", "content": pair[1]}


def _said(role: str, content: str) -> list[Turn]:
    return [{"role": role, "content": content}] if content.strip() else []


def _text(record: Mapping[str, Any], field: str) -> str:
    text = text_in_field(record.get(field), field)
    if text is None:
        raise FieldTypeError(f"the field {field!r} holds {described(record[field])}, not a text")
    return text


def _turn(turn: Mapping[str, Any]) -> Turn:
    if not is_turn(turn) and not turn.get("tool_calls"):
        raise _left_out("conversation with a turn that has no role and content")
    role = turn.get("role", turn.get("from"))
    if turn.get("tool_calls") or turn.get("function_call") or role in _OF_TOOLS:
        raise _left_out("conversation with tool calls")
    if role not in _ROLES:
        reason = "conversation with an unknown role"
        raise RecordError(f"{reason}: {role!r}; known are {', '.join(_ROLES)}", reason)
    if turn.get("weight") == 0:
        raise _left_out("conversation with an answer of weight 0")
    return {"role": _ROLES[role], "content": _content(turn.get("content", turn.get("value")))}


def _content(value: Any) -> str:
    """A text, or the texts of OpenAI's parts."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in value]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    if value is not None and not isinstance(value, str):
        raise _left_out("conversation with a turn that is not text")
    return value or ""


def _left_out(reason: str) -> RecordError:
    return RecordError(reason, reason)
