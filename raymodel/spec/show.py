"""How messages show what a person wrote: on one line, printable, and short."""

from __future__ import annotations

from typing import Any

MOST_CHARS = 80
"""A name or value longer than this is cut; what tells it apart stands in its beginning."""


def show(value: Any) -> str:
    """A value as a job file writes it, shortened; sections and lists by their kind."""
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"{value[:MOST_CHARS]!r}{_rest(value, MOST_CHARS)}"
    if isinstance(value, int) and value.bit_length() > 64:  # its digits may be thousands
        return f"a whole number of {value.bit_length():,} bits"
    return shorten(repr(value))


def shorten(text: str, most: int = MOST_CHARS) -> str:
    """`text` without its control characters and with at most `most` characters of its own."""
    seen = text[:most]
    if not seen.isprintable():  # line breaks, and what would move a terminal's cursor
        seen = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in seen)
    return seen + _rest(text, most)


def number_text(number: float) -> str:
    """`10000000.0` → `10,000,000`, and `1e-05` as it is: the bounds of a field."""
    if abs(number) < 1e15 and number == int(number):
        return f"{int(number):,}"
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _rest(text: str, most: int) -> str:
    return f"… ({len(text):,} characters)" if len(text) > most else ""
