"""Tables of pixels, as MNIST is handed round: an image a row, a number a pixel, and its label."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from raymodel.data.account import Account
from raymodel.data.readers.delimited import DELIMITERS, note_delimiter
from raymodel.data.readers.lines import open_lines
from raymodel.data.readers.png import encode_png
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location


class _Layout(NamedTuple):
    """How the rows of a file are made."""

    delimiter: str
    num_columns: int
    side: int
    """Pixels of a row of an image, and of a column."""
    label_index: int


def read_pixels(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The rows of the file, each a square grey image.

    Raises:
        SourceError: the first row is not a label and the pixels of a square.
    """
    layout, index = None, -1
    with open_lines(root, piece, spec, account, "row") as (_, lines):
        for text, line, fault in lines:
            row = text.strip("\r\n ")
            if not row and not fault:
                continue
            if layout is None and not fault:
                layout = _layout_of(row, piece, spec)
                note_delimiter(layout.delimiter, piece, spec, account)
                if _is_header(row, layout):
                    continue
            account.begin(piece.name, line)
            index += 1
            found = _parse(row, layout) if layout and not fault else str(fault)
            if isinstance(found, str):
                account.leave_out(found, row)
            else:
                yield RawRecord({**found, "index": index}, digest_of(found["image"]))


def _layout_of(row: str, piece: FileSlice, spec: SourceSpec) -> _Layout:
    """What the first row tells of all."""
    found = [spec.delimiter] if spec.delimiter else [each for each in DELIMITERS if each in row]
    num_columns = len(row.split(found[0])) if found else 1
    side = isqrt(num_columns - 1)
    if len(found) > 1 or side == 0 or side * side != num_columns - 1:
        shown = row if len(row) <= 100 else row[:99] + "…"
        parted = " and ".join(DELIMITERS.get(each, repr(each)) for each in found) or "nothing"
        raise SourceError(
            f"source {spec.path!r}: the first row of {piece.name}, {shown!r}, parted by {parted} "
            f"has {num_columns:,} columns; it must be a label and the pixels of a square, such as "
            "1 + 784 for 28 × 28. Change `format`, or set `delimiter`"
        )
    label_index = 0 if spec.label_column == "first" else num_columns - 1
    return _Layout(found[0], num_columns, side, label_index)


def _is_header(row: str, layout: _Layout) -> bool:
    """Whether none of the pixels is a number: one that is damaged does not make a header."""
    cells = row.split(layout.delimiter)
    del cells[layout.label_index]
    return not any(cell.strip().lstrip("-").isdigit() for cell in cells)


def _parse(row: str, layout: _Layout) -> dict[str, Any] | str:
    """Image and label; or why the row is left out."""
    cells = row.split(layout.delimiter)
    if len(cells) != layout.num_columns:
        return "row with another number of columns than the first"
    label = cells.pop(layout.label_index).strip()
    try:
        pixels = bytes(map(int, cells))
    except ValueError:
        pixels = None
    if pixels is None or ("_" in row and any("_" in cell for cell in cells)):  # Python's 1_000
        return "row with a pixel that is no whole number from 0 to 255"
    side = layout.side
    image = encode_png(np.frombuffer(pixels, np.uint8).reshape(side, side))
    return {"image": image, "label": label}
