"""How a model calls functions, as its chat template shows it.

Nothing here knows a model's name: the template is rendered with functions of known names, and with
turns in which the assistant calls them, and what stands around names and arguments is the form.
Known are those in which a call is a JSON object with a name and arguments, as Hermes', Qwen's,
Llama's and Mistral's older ones; and those in which the name stands by itself, and behind it the
arguments as a JSON object, as Mistral and DeepSeek write them, between tags, as Qwen3-Coder and
GLM do, or as Python has them, as LFM2 does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from raymodel.modality.call_form import (
    HOLE,
    WORD,
    CallForm,
    NamedCall,
    ObjectCall,
    Opening,
    Tags,
    find_end,
)
from raymodel.modality.chat import ChatError, ChatFormat, Turn
from raymodel.modality.known_forms import find_known_form

_NAMES = ("probe_one", "probe_two")
_ARGUMENTS = {"given": "seen", "other": 7}  # of two types, which some forms tell apart
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks.",
            "parameters": {
                "type": "object",
                "properties": {
                    "given": {"type": "string", "description": "Where."},
                    "other": {"type": "integer", "description": "How far."},
                },
                "required": ["given"],
            },
        },
    }
    for name in _NAMES
]
_ASKED: Turn = {"role": "user", "content": "asked"}
_ANSWERED: Turn = {"role": "assistant", "content": "shown"}
_RESULT = "result000"
_PYTHON = re.compile(r"\(\s*given\s*=\s*(['\"])seen\1\s*,\s*other\s*=\s*(['\"]?)7\2\s*\)")
_TAGS = re.compile(
    "(?P<lead>.*?)given(?P<one>.*?)seen(?P<between>.*?)other(?P<two>.*?)7", re.DOTALL
)
_HALF_TAG = re.compile(r"[<\[][^<>\[\]\s]*$")
_REST_OF_TAG = re.compile(r"[^<>\[\]\s]*[>\]]")
_FIRST_WORD = re.compile(r"<[^<>\s]*>?|\[\w+\]|\S+")
# Of a tag whose last part is the name: models leave out what stands before it.
_TAG_OF_NAME = re.compile(r"<[^<>]*[^<>\s]$")
_PYTHON_TAG = "<|python_tag|>"  # Llama's, before an object that its template writes without it


class _Call(NamedTuple):
    """A call that was found in a text."""

    start: int
    end: int
    kind: ObjectCall | NamedCall


class _UnknownFormError(ChatError):
    """The template writes calls otherwise."""


def find_call_form(chat: ChatFormat) -> CallForm:
    """The form of a tokenizer's chat template, or the one that it tells the model of.

    Raises:
        ChatError: it has none, or shows the model no functions, no calls or no results, or calls
            are written in a form that is not known here.
    """
    if not chat.has_template:
        raise ChatError("the model has no chat template, by which it would be shown tools")
    try:
        prompt = chat.render([_ASKED], _TOOLS, is_prompt=True)
    except ChatError as error:
        raise _takes_none(error) from error
    if not all(name in prompt for name in _NAMES):
        raise ChatError("the model's chat template shows it no tools")
    form = _find(chat, prompt)
    form = replace(form, special=_special(form, chat))
    turns = form.turns([_ASKED, _call(_NAMES[0]), _result(_NAMES[0])])
    try:
        shown = chat.render(turns, _TOOLS, is_prompt=True)
    except ChatError as error:
        raise _takes_none(error) from error
    if _RESULT not in shown:
        raise ChatError("the model's chat template shows it no results of tools")
    return form


def _find(chat: ChatFormat, prompt: str) -> CallForm:
    try:
        return _find_written(chat, prompt)
    except _UnknownFormError:
        raise
    except ChatError as error:
        known = find_known_form(prompt, chat.added_names)
        if known is None:
            raise error
        return known


def _find_written(chat: ChatFormat, prompt: str) -> CallForm:
    """The form in which the template writes calls. Raises ChatError where it writes none."""
    answered = chat.render([_ASKED, _ANSWERED], _TOOLS, is_prompt=False)
    form, wrong = None, None
    for takes_text in (False, True):

        def show(*names: str, takes_text: bool = takes_text) -> str:
            turn = _call(*names, takes_text=takes_text)
            return chat.render([_ASKED, turn], _TOOLS, is_prompt=False)

        try:
            form = _read_form(show, prompt, answered, chat)
        except ChatError as error:
            wrong = wrong or error
        if form is not None:
            return replace(form, takes_text=takes_text)
    assert wrong is not None, "it was found, or was not"
    raise wrong if isinstance(wrong, _UnknownFormError) else _takes_none(wrong)


def _read_form(show: Callable[..., str], prompt: str, answered: str, chat: ChatFormat) -> CallForm:
    called = show(_NAMES[0])
    if _NAMES[0] not in called.rpartition(str(_ASKED["content"]))[2]:
        raise ChatError("it leaves calls out of turns")
    start, end = _written(called, prompt, answered)
    found = _find_call(called[start:end], _NAMES[0], 0)
    opening = "" if found is None else called[start : start + found.start]
    if found is None or _NAMES[0] in opening:
        raise _UnknownFormError(
            "the model's chat template writes calls of tools in a form not known here"
        )
    after = called[start + found.end : end]
    between, kind = _between(show, start, found)
    return CallForm(
        openings=_openings(_without_id(opening), kind, chat.added_names),
        between=between,
        closing=_without_id(after),
        call=kind,
    )


def _written(called: str, prompt: str, answered: str) -> tuple[int, int]:
    """Where a turn that calls lies, of which another that does not shows the surroundings."""
    start, after = _common(answered, called)
    if half := _HALF_TAG.search(called, 0, start):  # both begin with a tag, and not the same
        start = half.start()
    if called.startswith(prompt):
        start = max(start, len(prompt))
    end = len(called) - after
    rest = _REST_OF_TAG.match(called, end)
    if rest and _HALF_TAG.search(called, start, end):
        end = rest.end()
    return start, end


def _openings(text: str, kind: ObjectCall | NamedCall, added: Sequence[str]) -> tuple[Opening, ...]:
    openings = [Opening(text, _trigger(text, added))]
    inner = _TAG_OF_NAME.search(text)
    if isinstance(kind, NamedCall) and inner and inner.start():
        openings.append(Opening(inner[0], _trigger(inner[0], added)))
    if not text.strip() and isinstance(kind, ObjectCall) and _PYTHON_TAG in added:
        openings.append(Opening(_PYTHON_TAG, _PYTHON_TAG))
    return tuple(openings)


def _trigger(opening: str, added: Sequence[str]) -> str:
    text = opening.lstrip()
    if text.strip() in ("", "["):
        return ""
    first = _FIRST_WORD.match(text.partition(HOLE)[0])
    assert first is not None, "it does not begin with a space"
    return max((name for name in added if text.startswith(name)), key=len, default=first[0])


def _special(form: CallForm, chat: ChatFormat) -> Mapping[str, int]:
    written = "\n".join(form.literals)
    return {name: number for name, number in chat.special_ids.items() if name in written}


# ---- calls in a text -----------------------------------------------------------------------------


def _find_call(text: str, name: str, begin: int) -> _Call | None:
    """The first call of a function."""
    for start, end, value in _objects(text, begin):
        if name in value.values():
            name_key = next(key for key, each in value.items() if each == name)
            keys = [key for key, each in value.items() if each in (name, _ARGUMENTS)]
            others = tuple(key for key in value if key not in keys)
            return _Call(start, end, ObjectCall((keys[0], keys[1]), name_key, others))
    given = text.find("given", begin)
    start = text.rfind(name, begin, max(given, 0))
    if start < 0:
        return None
    return _find_arguments(text, start, start + len(name))


def _find_arguments(text: str, start: int, name_end: int) -> _Call | None:
    """A call of that name, by the form of what is behind it."""
    brace = text.find("{", name_end)
    after_name = text[name_end:brace]
    if brace >= 0 and "given" not in after_name:
        try:
            value, end = json.JSONDecoder().raw_decode(text, brace)
        except ValueError:
            value, end = None, brace
        if value == _ARGUMENTS:
            return _Call(start, end, NamedCall(_without_id(after_name), "json"))
    if call := _PYTHON.match(text, name_end):
        return _Call(start, call.end(), NamedCall("(", "python"))
    parts = _TAGS.match(text, name_end)
    return parts and _find_tags(text, start, parts)


def _find_tags(text: str, start: int, parts: re.Match[str]) -> _Call | None:
    lead, between = parts["lead"], parts["between"]
    _, num_alike = _common(lead, between, is_apart=False)
    before_key = lead[len(lead) - num_alike :]
    before_key = before_key[before_key.find("<") :] if "<" in before_key else ""
    after_value = between.removesuffix(before_key)
    before_value = _with_hole(parts["one"], parts["two"])
    is_clear = before_key and before_value and "<" in after_value and "given" not in after_value
    rest = text[parts.end() :]
    # Of the last one the spaces behind may be others.
    end = len(after_value) if rest.startswith(after_value) else find_end(rest, after_value)
    if not is_clear or before_value is None or end is None or end < 0:
        return None
    tags = Tags(before_key, before_value, after_value)
    after_name = _without_id(lead.removesuffix(before_key))
    return _Call(start, parts.end() + end, NamedCall(after_name, tags))


def _objects(text: str, begin: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The objects that hold the arguments of a call, and where they lie."""
    decoder, end = json.JSONDecoder(), begin
    for found in re.finditer("{", text):
        if found.start() < end:
            continue
        try:
            value, after = decoder.raw_decode(text, found.start())
        except ValueError:
            continue
        if _ARGUMENTS in value.values():
            end = after
            yield found.start(), after, value


def _between(
    show: Callable[..., str], place: int, first: _Call
) -> tuple[str | None, ObjectCall | NamedCall]:
    """What stands between two calls, and how both are written."""
    try:
        text = show(*_NAMES)[place:]
    except ChatError:  # which says that there may be only one
        return None, first.kind
    one = _find_call(text, _NAMES[0], 0)
    two = one and _find_call(text, _NAMES[1], one.end)
    if one is None or two is None or one.start != first.start:
        return None, first.kind
    kind = one.kind
    if isinstance(kind, NamedCall) and isinstance(two.kind, NamedCall):
        after_name = _with_hole(kind.after_name, two.kind.after_name)
        if after_name is None:
            return None, first.kind
        kind = kind._replace(after_name=after_name)
    return _without_id(text[one.end : two.start]), kind


# ---- texts ---------------------------------------------------------------------------------------


def _call(*names: str, takes_text: bool = False) -> Turn:
    arguments: Any = json.dumps(_ARGUMENTS) if takes_text else dict(_ARGUMENTS)
    calls = [
        {"id": _id_of(name), "type": "function", "function": {"name": name, "arguments": arguments}}
        for name in names
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _result(name: str) -> Turn:
    return {"role": "tool", "content": _RESULT, "tool_call_id": _id_of(name), "name": name}


def _id_of(name: str) -> str:
    return f"probe000{_NAMES.index(name)}"  # nine letters and digits, which Mistral's insist on


def _without_id(text: str) -> str:
    for name in _NAMES:
        text = text.replace(_id_of(name), HOLE)
    return text


def _with_hole(one: str, other: str) -> str | None:
    """What two texts share that differ in one word at most; None of others."""
    if one == other:
        return one
    before, after = _common(one, other)
    letters = "".join(WORD)
    head, tail = one[:before].rstrip(letters), one[len(one) - after :].lstrip(letters)
    words = (text[len(head) : len(text) - len(tail)] for text in (one, other))
    return head + HOLE + tail if all(WORD.issuperset(word) for word in words) else None


def _common(one: str, other: str, *, is_apart: bool = True) -> tuple[int, int]:
    """How many characters two texts share at their beginnings, and then at their ends.

    Args:
        is_apart: characters of the beginnings are none of the ends.
    """
    before = _num_same(one, other)
    begin = before if is_apart else 0
    return before, _num_same(one[begin:][::-1], other[begin:][::-1])


def _num_same(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _takes_none(error: ChatError) -> ChatError:
    return ChatError(f"the model's chat template takes no tools ({error})")
