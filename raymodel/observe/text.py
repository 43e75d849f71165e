"""How numbers, times and tables are written for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def count_text(value: float) -> str:
    """`1234567` → `1.23M`."""
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}" if value % 1 else str(int(value))


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


def table_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as aligned columns, one line each; all columns that occur, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns] + [[cell_text(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )
