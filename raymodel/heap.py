"""The C library's heap: what was freed goes back to the system, or stays for what comes next."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_MOST = 2**31 - 1  # an int
_ARENA_HEAP_BYTES = 64 * 2**20  # HEAP_MAX_SIZE of glibc's arena.c

ONE_HEAP = "MALLOC_ARENA_MAX"
"""The environment variable that, as 1, has all threads of a process share one heap in glibc."""


def keep_freed_memory() -> None:
    """From now on freed memory stays with this process, to be used again.

    By itself glibc maps large blocks one by one, and cuts off the free end of the heap: a training
    step on a CPU gives all its activations and gradients back, and has the next step's made anew
    by the system, zeroed, page by page. Of fine-tuning MiniLM that was a tenth of all CPU time.

    What threads allocate, where they have heaps of their own, lies in pieces of a fixed size: one
    that is empty is unmapped, unless as much is to stay free at the end. What is larger than a
    piece is mapped as before; under `ONE_HEAP` it is not. `give_back_freed_memory` still gives
    back. Elsewhere than on glibc nothing happens.

    Source: mallopt(3).
    """
    set_option: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, _MOST)
        set_option(_M_TOP_PAD, _ARENA_HEAP_BYTES)


def give_back_freed_memory() -> None:
    """Returns free pages to the system, those between blocks that are in use among them.

    By itself glibc gives back only the free end of the heap: one small block that stays behind a
    large one that goes keeps the room of both resident. Elsewhere than on glibc nothing happens.

    Source: malloc_trim(3).
    """
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
