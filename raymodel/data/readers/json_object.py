"""One record of JSON: an object in which a name stands once and nesting has an end."""

from __future__ import annotations

import json
from typing import Any

from raymodel.tasks.conversation import is_turn

MAX_DEPTH = 100
"""Of lists and objects in each other. Python's own limit depends on where a function is called."""


class Misfit(Exception):
    """Why a JSON value is no record, in words that follow "line" or "value"."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Misfit("with a name twice in one object")
    return fields


_RECORDS = json.JSONDecoder(object_pairs_hook=_unique)
# For the end of a value that is no record: it takes what the other one refuses.
_VALUES = json.JSONDecoder(parse_int=float)


def parse_object(text: str) -> dict[str, Any]:
    """The record in a text without white space around it; a comma after it is overlooked.

    NaN and the infinities, which Python writes though JSON has none, are numbers.

    Raises:
        Misfit: it is not one JSON object.
    """
    try:
        value, end = scan(text, 0)
    except json.JSONDecodeError:
        raise Misfit("not JSON") from None
    if end != len(text) and text[end:].strip() != ",":
        raise Misfit("with more than a JSON value")
    return as_record(value)


def scan(text: str, start: int) -> tuple[Any, int]:
    """The value at `start` and where it ends.

    Raises:
        json.JSONDecodeError: there is none.
        Misfit: there is one that no record may hold.
    """
    try:
        return _RECORDS.raw_decode(text, start)
    except RecursionError:
        raise Misfit("nested too deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise Misfit("with a number of too many digits") from None


def scan_any(text: str, start: int) -> tuple[Any, int]:
    """As `scan`, and for a value that no record may hold too, as far as Python can parse it."""
    try:
        return _VALUES.raw_decode(text, start)
    except RecursionError:
        raise Misfit("nested too deep") from None


def as_record(value: Any) -> dict[str, Any]:
    """The value, when it is an object that is not nested too deep; else raises Misfit."""
    if not isinstance(value, dict):
        raise Misfit("not a JSON object")
    level: list[Any] = [part for part in value.values() if isinstance(part, (dict, list))]
    depth = 1
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Misfit("nested too deep")
        level = [
            part
            for node in level
            for part in (node.values() if isinstance(node, dict) else node)
            if isinstance(part, (dict, list))
        ]
    return value


def unwrapped_field(fields: dict[str, Any]) -> str | None:
    """The one field of an object that is a list of objects: records that it was put around. Turns
    of a conversation are none."""
    lists = [
        name
        for name, value in fields.items()
        if isinstance(value, list)
        and value
        and all(isinstance(item, dict) and not is_turn(item) for item in value)
    ]
    return lists[0] if len(lists) == 1 else None
