"""Templates over a record's fields: `"{code}"`, `"Q: {question}\\nA:"`, `"{messages[0][content]}"`.

Between braces stands a field's name, and in brackets after it the place in a list or the key in a
mapping. Python's own `str.format` would also reach attributes (`{x.__class__}`) and format, which a
template from a job file must not do.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from string import Formatter
from typing import Any, NamedTuple
from uuid import UUID

_PART = re.compile(r"\[([^\[\]{}]+)\]")
_REFERENCE = re.compile(rf"([^\W\d]\w*)((?:{_PART.pattern})*)")
_SHOWN_CHARS = 80  # of a value that cannot be used


class RecordError(ValueError):
    """This record cannot be written as text; others of its source can."""

    @property
    def reason(self) -> str:
        """For which it is left out: the same words for all records of a kind."""
        return str(self.args[1])

    def __str__(self) -> str:
        return str(self.args[0])


class FieldTypeError(ValueError):
    """A field holds what has no one text, a list or a mapping: the job file asks for too much."""


class Reference(NamedTuple):
    """What stands between braces."""

    text: str
    """As it is written."""
    name: str
    """The field."""
    parts: tuple[str, ...]
    """Places and keys within its value, outermost first."""


def template_fields(template: str) -> tuple[str, ...]:
    """Names of the fields in `template`, in order; `{{` and `}}` stand for braces.

    Raises ValueError when the braces do not pair, or hold anything but a name and its parts.
    """
    return tuple(reference.name for _, reference in _parse(template) if reference is not None)


def render(template: str, record: Mapping[str, Any]) -> str:
    """Fills `template` from `record`; how a value is written, `value_text` says.

    Raises:
        RecordError: the record lacks a field, or one holds bytes that are not UTF-8.
        FieldTypeError: a field holds a list or a mapping.
    """
    return "".join(
        text if reference is None else text + _field_text(template, reference, record)
        for text, reference in _parse(template)
    )


def value_text(value: object) -> str | None:
    """One rule for each type of value; None for lists, mappings and all others.

    Texts are as they are, and bytes are read as UTF-8 (else UnicodeDecodeError). Null and NaN,
    which is how tables write a missing number, are empty. True and false are `true` and `false`;
    integers and decimals their digits, other numbers the shortest text that means the same
    (`0.1`, `1.0`, `inf`); dates and times ISO 8601.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, int | float | UUID) else None


@functools.lru_cache(maxsize=64)  # the same few templates for millions of records
def _parse(template: str) -> tuple[tuple[str, Reference | None], ...]:
    rule = (
        "write plain field names, like {text}, with the parts of a list or mapping in brackets, "
        "like {messages[0][content]}, and {{ or }} for a brace itself"
    )
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; {rule}") from error
    found = []
    for text, name, format_spec, conversion in parsed:
        match = _REFERENCE.fullmatch(name) if name is not None else None
        if name is not None and (format_spec or conversion or match is None):
            raise ValueError(f"template {template!r} holds {{{name}}}, not a plain name; {rule}")
        reference = match and Reference(match[0], match[1], tuple(_PART.findall(match[2])))
        found.append((text, reference))
    return tuple(found)


def text_in_field(value: Any, field: str, where: str = "") -> str | None:
    """`value_text` of a field's value. Raises RecordError for bytes that are no text.

    Args:
        where: begins the message: who asks.
    """
    try:
        return value_text(value)
    except UnicodeDecodeError as error:
        reason = f"bytes that are not UTF-8 in the field {field!r}"
        raise RecordError(f"{where}the record has {reason}", reason) from error


def _field_text(template: str, reference: Reference, record: Mapping[str, Any]) -> str:
    value = _find(template, reference, record)
    text = text_in_field(value, reference.text, f"template {template!r}: ")
    if text is None:
        raise FieldTypeError(
            f"template {template!r}: the field {reference.text!r} holds {described(value)}; a "
            "template takes texts, numbers, dates, true and false" + _way_in(reference.text, value)
        )
    return text


def _find(template: str, reference: Reference, record: Mapping[str, Any]) -> Any:
    value: Any = record
    for part in (reference.name, *reference.parts):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            nearest = difflib.get_close_matches(reference.name, record, n=1)
            hint = f"; did you mean {{{nearest[0]}}}?" if nearest and not reference.parts else ""
            raise RecordError(
                f"template {template!r} names the field {reference.text!r}, but the record has "
                f"only {', '.join(record) or 'no fields'}{hint}",
                f"record without the field {reference.text!r}",
            )
    return value


def described(value: object) -> str:
    """A value that cannot be used, in few words: its type and its beginning."""
    types = {"dict": "a mapping", "list": "a list", "tuple": "a list", "bytes": "bytes"}
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"
    name = type(value).__name__
    return f"{types.get(name, f'a value of type {name}')} ({shown})"


def _way_in(written: str, value: object) -> str:
    """The fix: how the first text in it is named."""
    while isinstance(value, list | dict) and value:
        part = 0 if isinstance(value, list) else next(iter(value))
        written, value = f"{written}[{part}]", value[part]
    if isinstance(value, str | int | float):
        return f". Name the part to take, such as {{{written}}}"
    return ". Name another field, or write this one as text in the data"
