"""Grammars of answers that call functions, as llguidance reads them.

Source: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from raymodel.modality.tool_form import CallForm
from raymodel.serve.sampling import Form
from raymodel.serve.tool_protocol import Function

# Of one answer: a model that finds no end has to have one.
_MOST_CALLS = 16
# As templates write arguments, and without room for spaces that a model may write for ever.
_GUIDANCE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_TEXT = r"(.|\n)*"
_TEXT_OF_NO_OBJECT = r"[ \n\r\t]*([^\[{ \n\r\t](.|\n)*)?"


def only_calls(form: CallForm, functions: Sequence[Function], most: int | None) -> Form:
    """Of an answer that is calls of these functions and nothing else."""
    opening = _literal(form, form.opening)
    lines = [f"start: {opening} calls", *_calls(form, functions, most)]
    return Form("grammar", "\n".join([*lines, *_arguments(functions)]))


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
    lines += _calls(form, functions, most)
    return Form("grammar", "\n".join([*lines, *_arguments(functions, of_all=False)]))


def _calls(form: CallForm, functions: Sequence[Function], most: int | None) -> list[str]:
    """From the first object to the end."""
    count = 1 if form.between is None else most or _MOST_CALLS
    more = f" ({_literal(form, form.between or '')} call){{0,{count - 1}}}" if count > 1 else ""
    return [
        f"calls: call{more} {_literal(form, form.closing)}",
        "call: " + " | ".join(_object(form, f, number) for number, f in enumerate(functions)),
    ]


def _object(form: CallForm, function: Function, number: int) -> str:
    """One call, with the arguments of this number."""
    parts, text = [], "{"
    for place, key in enumerate(form.keys):
        text += (", " if place else "") + json.dumps(key) + ": "
        if key == form.name_key:
            text += json.dumps(function.name)
        else:
            parts += [json.dumps(text), f"arguments_{number}"]
            text = ""
    return " ".join([*parts, json.dumps(text + "}")])


def _arguments(functions: Sequence[Function], *, of_all: bool = True) -> list[str]:
    """Arguments by number: of their schema, or, of functions that are not strict, any object."""
    rules = []
    for number, function in enumerate(functions):
        schema = function.schema_ if of_all or function.strict else {"type": "object"}
        rules.append(f"arguments_{number}: %json {json.dumps({**schema, 'x-guidance': _GUIDANCE})}")
    return rules


def _literal(form: CallForm, text: str) -> str:
    """A text as rules have it, in which special tokens stand by their numbers."""
    names = sorted(form.special, key=len, reverse=True)
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]
    return " ".join(
        f"<[{form.special[piece]}]>" if piece in form.special else json.dumps(piece)
        for piece in pieces
        if piece
    )
