"""Grammars of answers that call functions, as llguidance reads them.

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymodel.modality.call_form import HOLE, CallForm, NamedCall, ObjectCall, Tags
from raymodel.serve.call_values import schema_of, types_of
from raymodel.serve.sampling import Form
from raymodel.serve.tool_protocol import Function

# Of one answer: a model that finds no end has to have one.
_MOST_CALLS = 16
# As templates write arguments, and without room for spaces that a model may write for ever.
_GUIDANCE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r"(.|\n)*"
_TEXT_OF_NO_OBJECT = r"[ \n\r\t]*([^\[{ \n\r\t](.|\n)*)?"
_WORD = "/[A-Za-z0-9_]{1,9}/"


def only_calls(form: CallForm, functions: Sequence[Function], most: int | None) -> Form:
    """Of an answer that is calls of these functions and nothing else."""
    opening = _literal(form, form.opening)
    lines = [f"start: {opening} calls", *_calls(form, functions, most, of_all=True)]
    return Form("grammar", "\n".join(lines))


def text_with_calls(form: CallForm, functions: Sequence[Function], most: int | None) -> Form:
    """Of an answer that may call: what is text, may not begin a call and then be none."""
    rest = _literal(form, form.opening.lstrip().removeprefix(form.trigger))
    if not form.trigger:
        lines = [f"start: {rest} calls | TEXT", f"TEXT: /{_TEXT_OF_NO_OBJECT}/"]
    elif form.trigger in form.special:
        lines = [
            "start: turn* TEXT",
            f"turn: TEXT {_literal(form, form.trigger)} {rest} calls",
            f"TEXT: /{_TEXT}/",
        ]
    else:
        lines = [
            "start: turn* TEXT",
            f"turn: until_call {rest} calls",
            f"until_call[lazy]: TEXT {json.dumps(form.trigger)}",
            f"TEXT: /{_TEXT}/",
        ]
    lines += _calls(form, functions, most, of_all=False)
    return Form("grammar", "\n".join(lines))


def _calls(
    form: CallForm, functions: Sequence[Function], most: int | None, *, of_all: bool
) -> list[str]:
    """From the first call to the end.

    Args:
        of_all: all have their schema, and not only those functions that are strict.
    """
    count = 1 if form.between is None else most or _MOST_CALLS
    more = f" ({_literal(form, form.between or '')} call){{0,{count - 1}}}" if count > 1 else ""
    lines = [
        f"calls: call{more} {_literal(form, form.closing)}",
        "call: " + " | ".join(_call(form, f, number) for number, f in enumerate(functions)),
    ]
    for number, function in enumerate(functions):
        is_strict = of_all or function.strict
        schema = function.schema_ if is_strict else {"type": "object"}
        lines += _arguments(form, schema, f"arguments_{number}")
    return lines


def _call(form: CallForm, function: Function, number: int) -> str:
    """One call, with the arguments of this number."""
    if isinstance(form.call, ObjectCall):
        return _object(form.call, function, number)
    name = json.dumps(function.name)
    return f"{name} {_literal(form, form.call.after_name)} arguments_{number}"


def _object(call: ObjectCall, function: Function, number: int) -> str:
    parts, text = [], "{"
    for place, key in enumerate(call.keys):
        text += (", " if place else "") + json.dumps(key) + ": "
        if key == call.name_key:
            text += json.dumps(function.name)
        else:
            parts += [json.dumps(text), f"arguments_{number}"]
            text = ""
    return " ".join([*parts, json.dumps(text + "}")])


# ---- arguments -----------------------------------------------------------------------------------


def _arguments(form: CallForm, schema: Mapping[str, Any], rule: str) -> Iterator[str]:
    """The rules of a function's arguments, of which the first has this name."""
    if isinstance(form.call, NamedCall) and isinstance(form.call.arguments, Tags):
        yield from _tagged(form, form.call.arguments, schema, rule)
    elif isinstance(form.call, NamedCall) and form.call.arguments == "python":
        yield from _python(schema, rule)
    else:
        yield f"{rule}: {_json(schema)}"


def _tagged(form: CallForm, tags: Tags, schema: Mapping[str, Any], rule: str) -> Iterator[str]:
    """Values between tags, in the order of the schema: texts are all that does not end them."""
    before, after = (_literal(form, text) for text in tags[:2])
    end = _literal(form, tags.after_value)
    yield from _bare_texts(form, tags, rule)
    properties = _properties(schema)
    parts = []
    for place, (key, is_needed) in enumerate(properties.items()):
        argument = f"{rule}_{place}"
        parts.append(argument if is_needed else f"{argument}?")
        head = f"{argument}: {before} {json.dumps(key)} {after}"
        texts, values = _split(schema_of(key, schema))
        if values is None and texts is None:
            yield f"{head} {rule}_text"
            continue
        value = [json.dumps(text) for text in texts or ()]
        value += [] if values is None else [_json(values)]
        yield f"{head} ({' | '.join(value)}) {end}"
    if not properties and schema.get("additionalProperties") is not False:
        yield f"{rule}: {rule}_any{{0,{_MOST_CALLS}}}"
        yield f"{rule}_any: {before} /[A-Za-z0-9_]{{1,64}}/ {after} {rule}_text"
    else:
        yield f"{rule}: {' '.join(parts) or json.dumps('')}"


def _bare_texts(form: CallForm, tags: Tags, rule: str) -> Iterator[str]:
    """A text up to the tag that ends it, and that tag."""
    mark = tags.after_value
    special = next((name for name in form.special if name in mark), None)
    if special is None:
        yield f"{rule}_text[lazy]: /{_TEXT}/ {json.dumps(mark)}"
    else:  # which no text holds
        yield f"{rule}_text: /{_TEXT}/ {_literal(form, mark)}"


def _split(schema: Mapping[str, Any]) -> tuple[list[str] | None, Mapping[str, Any] | None]:
    """The texts that a value may be, if it may be only some, and the schema of what else it may be;
    neither of one that may be any text."""
    if "string" not in types_of(schema):
        return None, schema
    for given in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if isinstance(given, list):
            texts = [each for each in given if isinstance(each, str)]
            others = [each for each in given if not isinstance(each, str)]
            return texts, {"enum": others} if others else None
    return None, None


def _python(schema: Mapping[str, Any], rule: str) -> Iterator[str]:
    """`key=value, …)`, in the order of the schema, with values as JSON, which Python reads too but
    for three words."""
    properties = _properties(schema)
    if not properties and schema.get("additionalProperties") is not False:
        yield f'{rule}: ({rule}_any (", " {rule}_any){{0,{_MOST_CALLS}}})? ")"'
        yield f'{rule}_any: /[A-Za-z_][A-Za-z0-9_]{{0,63}}/ "=" {_json({})}'
        return
    yield f"{rule}: {rule}_first_0"
    for place, (key, is_needed) in enumerate(properties.items()):
        argument = f"{json.dumps(key + '=')} {_json(schema_of(key, schema))}"
        yield f"{rule}_{place}: {argument}"
        for kind, comma in (("first", ""), ("next", '", " ')):
            left_out = "" if is_needed else f" | {rule}_{kind}_{place + 1}"
            yield (
                f"{rule}_{kind}_{place}: {comma}{rule}_{place} {rule}_next_{place + 1}{left_out}"
            )
    for kind in ("first", "next"):
        yield f'{rule}_{kind}_{len(properties)}: ")"'


def _properties(schema: Mapping[str, Any]) -> dict[str, bool]:
    """The arguments that a schema names, and whether a call must have them."""
    given, needed = schema.get("properties"), schema.get("required")
    needed = needed if isinstance(needed, list) else []
    return {key: key in needed for key in given} if isinstance(given, Mapping) else {}


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {json.dumps({**schema, 'x-guidance': _GUIDANCE})}"


def _literal(form: CallForm, text: str) -> str:
    """A text as rules have it, in which special tokens stand by their numbers."""
    names = sorted([*form.special, HOLE], key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    return " ".join(_piece(form, piece) for piece in pieces if piece)


def _piece(form: CallForm, piece: str) -> str:
    if piece == HOLE:
        return _WORD
    return f"<[{form.special[piece]}]>" if piece in form.special else json.dumps(piece)
