"""The C library's heap, which keeps what was freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def give_back_freed_memory() -> None:
    """Returns free pages to the system, those between blocks that are in use among them.

    By itself glibc gives back only the free end of the heap: one small block that stays behind a
    large one that goes keeps the room of both resident. Elsewhere than on glibc nothing happens.

    Source: malloc_trim(3).
    """
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
