"""How numbers, times and tables are written for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

WIDTH = 80
"""Columns of what people read: those of a terminal that nobody has made wider."""
_GAP = "  "
_Column = Sequence[str]
_JOINED = "\N{NO-BREAK SPACE}"
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def count_text(value: float) -> str:
    """`1234567` → `1.23M`."""
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}" if value % 1 else str(int(value))


def amount_text(value: float, record: Mapping[str, Any]) -> str:
    """`1.23M`, and `4K images` where a record counts in another unit than tokens."""
    unit = record.get("unit")
    return count_text(value) + (f" {unit}" if unit else "")


def many(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration_text(seconds: float) -> str:
    """`83.2` → `1m23s`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest_s:02d}s" if minutes else f"{rest_s}s"


def gib_text(num_bytes: float) -> str:
    """`2147483648` → `2.00 GiB`; below a tenth of that in MiB."""
    if abs(num_bytes) < 0.1 * 2**30:
        return f"{num_bytes / 2**20:.1f} MiB"
    return f"{num_bytes / 2**30:.2f} GiB"


def cell_text(value: object) -> str:
    """One cell of a table: an em dash for None, few digits for floats."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def wrapped(text: str, first: str = "", indent: str | None = None) -> str:
    """`text` in lines of `WIDTH` columns. No word is cut, so that paths can be copied.

    Args:
        first: what the first line begins with.
        indent: what the others begin with; as many blanks as `first` has characters when None.
    """
    indent = " " * len(first) if indent is None else indent
    return "\n".join(_wrap(text, WIDTH, first, indent)) or first.rstrip()


def listed(parts: Iterable[str], first: str = "") -> str:
    """The parts with ` · ` between them, in lines of `WIDTH` columns; no part is cut in two."""
    whole = " · ".join(part.replace(" ", _JOINED) for part in parts)
    return wrapped(whole, first).replace(_JOINED, " ")


def table_text(rows: Sequence[Mapping[str, object]], indent: str = "") -> str:
    """Rows as aligned columns of at most `WIDTH` in all; all that occur, in order of appearance.

    Words in the last column may go on below themselves. Columns for which there is no room make a
    second table below, which begins with the first column again.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [[name, *(cell_text(row.get(name)) for row in rows)] for name in names]
    room = WIDTH - len(indent)
    lines = [line for block in _blocks(columns, room) for line in _block_lines(block, room)]
    return "\n".join((indent + line).rstrip() for line in lines)


def _blocks(columns: Sequence[_Column], room: int) -> Iterator[list[_Column]]:
    """The columns that stand beside each other."""
    key, *others = columns
    block = [key]
    for column in others:
        used = sum(_longest(each) + len(_GAP) for each in block)
        needed = _longest_word(column) if column is others[-1] else _longest(column)
        if used + needed > room and len(block) > 1:
            yield block
            block = [key]
        block.append(column)
    yield block


def _block_lines(block: Sequence[_Column], room: int) -> Iterator[str]:
    widths = [_longest(column) for column in block[:-1]]
    room_of_last = max(room - sum(width + len(_GAP) for width in widths), 1)
    for *row, last in zip(*block, strict=True):
        begun = "".join(cell.ljust(width) + _GAP for cell, width in zip(row, widths, strict=True))
        for part in _wrap(last, room_of_last) or [""]:
            yield begun + part
            begun = " " * len(begun)


def _wrap(text: str, width: int, first: str = "", indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _longest(column: _Column) -> int:
    return max(map(len, column))


def _longest_word(column: _Column) -> int:
    return max((len(word) for cell in column for word in cell.split()), default=0)
