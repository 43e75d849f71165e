"""Several texts in one row: their ids end to end in `input_ids`, with the length of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Columns, LeftOut

if TYPE_CHECKING:
    import pyarrow as pa

    from raymodel.chance import Draw


def texts_schema() -> pa.Schema:
    """`input_ids` list<int32>, and `lengths` list<int32> of the texts in it."""
    import pyarrow as pa

    return pa.schema([("input_ids", pa.list_(pa.int32())), ("lengths", pa.list_(pa.int32()))])


def texts_of(rows: Columns, index: int, column: str = "input_ids") -> list[Any]:
    """Each text of a row: an array of its ids, or of another column that goes along with them."""
    import numpy as np

    ends = np.cumsum(np.asarray(rows["lengths"][index]))
    return np.split(np.asarray(rows[column][index]), ends[:-1])


def find_empty(values: Sequence[tuple[str, str]]) -> LeftOut | None:
    """What to say of the first text that is empty.

    Args:
        values: what a text is, such as `query`, and the text.
    """
    empty = next((what for what, text in values if not text.strip()), None)
    return None if empty is None else LeftOut(f"record with an empty {empty}")


def drawn_negatives(count: int, most: int | None, draw: Draw | None, index: int) -> list[int]:
    """Which negatives of the row at `index` are used: all, or as many as are asked for, by chance.

    Args:
        count: that the row has.
        most: None uses all.
        draw: None, where nothing is left to chance, uses all too.
    """
    if draw is None or most is None or count <= most:
        return list(range(count))
    import numpy as np

    order = np.argsort(draw.of_row(index).uniform(count), kind="stable")
    return sorted(int(place) for place in order[:most])


def key_of(ids: Any) -> int:
    """63 bits that are equal for equal ids, and never 0."""
    import numpy as np

    data = np.asarray(ids, dtype=np.int32).tobytes()
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 | 1
