"""Records that wait on storage for the tasks that read them: one file, a part for each task.

A table of where the parts begin comes first, so that a task reads two ranges of each file, however
many parts it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from raymodel.storage.uri import Location

_READ_THREADS = 16  # hides the latency of object stores: a task reads a little of every file


def write_spill(place: Location, records: Any, parts: Any, num_parts: int) -> None:
    """Writes records, each in its part; those of one part keep their order.

    Args:
        records: of any dtype. (n,)
        parts: the part of each. (n,)
    """
    starts = np.zeros(num_parts + 1, dtype="<i8")
    np.cumsum(np.bincount(parts, minlength=num_parts), out=starts[1:])
    ordered = records[np.argsort(parts, kind="stable")]
    place.write_bytes(starts.tobytes() + ordered.tobytes())


def read_spills(places: Sequence[Location], part: int, num_parts: int, dtype: Any) -> Any:
    """The records of one part of several files, in their order."""
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        read = pool.map(lambda place: read_spill(place, part, num_parts, dtype), places)
        return np.concatenate([np.empty(0, dtype), *read])


def read_spill(place: Location, part: int, num_parts: int, dtype: Any) -> Any:
    """The records of one part."""
    start, stop = np.frombuffer(place.read_range(8 * part, 16), dtype="<i8").tolist()
    size, head = np.dtype(dtype).itemsize, 8 * (num_parts + 1)
    if start == stop:
        return np.empty(0, dtype)
    data = place.read_range(head + start * size, (stop - start) * size)
    return np.frombuffer(data, dtype)
