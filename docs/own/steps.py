"""Cleaning steps. `clean: {steps: ["steps:drop_tables"]}` runs each text of a record through it.

A step is given one text and returns what is kept of it, or None to leave the record out. Records
that are left out are counted under the step's name. The same text must give the same result.
"""

import re

_CELL = re.compile(r"[|\t]")


def drop_tables(text: str) -> str | None:
    """Leaves out texts of which most lines are rows of a table."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = sum(len(_CELL.findall(line)) >= 2 for line in lines)
    return None if lines and rows > len(lines) / 2 else text


def drop_links(text: str) -> str:
    """Takes web addresses out of a text."""
    return re.sub(r"https?://\S+", "", text)
