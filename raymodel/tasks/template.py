"""Templates over a record's fields: `"{code}"`, `"Q: {question}\\nA:"`.

Only plain field names stand between braces. Python's own `str.format` would also reach attributes
and indexes (`{x.__class__}`), which a template from a job file must not do.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from string import Formatter
from typing import Any


def template_fields(template: str) -> tuple[str, ...]:
    """Names of the fields in `template`, in order; `{{` and `}}` stand for braces.

    Raises ValueError when the braces do not pair, or hold anything but a plain name.
    """
    return tuple(name for _, name in _parse(template) if name is not None)


def render(template: str, record: Mapping[str, Any]) -> str:
    """Fills `template` from `record`. Raises ValueError for a field that the record lacks."""
    parts = []
    for text, name in _parse(template):
        parts.append(text)
        if name is not None:
            parts.append(_value(template, name, record))
    return "".join(parts)


def _parse(template: str) -> list[tuple[str, str | None]]:
    rule = "write plain field names, like {text}, and {{ or }} for a brace itself"
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; {rule}") from error
    for _, name, format_spec, conversion in parsed:
        if name is not None and (format_spec or conversion or not name.isidentifier()):
            raise ValueError(f"template {template!r} holds {{{name}}}, not a plain name; {rule}")
    return [(text, name) for text, name, _, _ in parsed]


def _value(template: str, name: str, record: Mapping[str, Any]) -> str:
    if name not in record:
        nearest = difflib.get_close_matches(name, record, n=1)
        hint = f"; did you mean {{{nearest[0]}}}?" if nearest else ""
        raise ValueError(
            f"template {template!r} names the field {name!r}, but the record has only "
            f"{', '.join(record) or 'no fields'}{hint}"
        )
    value = record[name]
    return "" if value is None else str(value)
