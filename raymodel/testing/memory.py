"""How much memory a piece of work takes, by the kernel's own count. Linux only."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raymodel.heap import give_back_freed_memory

_STATUS = Path("/proc/self/status")
# Writing 5 sets the high-water mark to what is resident now:
# https://www.kernel.org/doc/html/latest/filesystems/proc.html, "clear_refs".
_RESET, _RESET_PEAK = Path("/proc/self/clear_refs"), "5"


@dataclass
class Growth:
    """By how much this process grew."""

    peak_bytes: int = 0
    """At the worst moment."""
    kept_bytes: int = 0
    """At the end."""


@contextmanager
def measure_memory() -> Iterator[Growth]:
    """Fills in what it yields when the block ends. Memory that was free to begin with is given
    back first, so that the block cannot live on it unseen."""
    _give_back()
    before = resident_bytes("VmRSS")
    reset_peak()
    growth = Growth()
    yield growth
    growth.peak_bytes = resident_bytes("VmHWM") - before
    _give_back()
    growth.kept_bytes = resident_bytes("VmRSS") - before


def _give_back() -> None:
    gc.collect()
    give_back_freed_memory()


def reset_peak() -> None:
    """Sets the peak back to what is resident now."""
    _RESET.write_text(_RESET_PEAK)


def resident_bytes(field: str) -> int:
    """Of this process: `VmRSS`, what is resident now, or `VmHWM`, its peak."""
    lines = _STATUS.read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
