"""Nobody is left before a silent command: what takes its time is named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_S = 3.0  # what is there answers in less


@contextmanager
def aloud(what: str) -> Iterator[None]:
    """Says what it waits for when the block takes longer than a moment."""
    timer = threading.Timer(QUIET_S, lambda: print(f"waiting for {what} …", flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
