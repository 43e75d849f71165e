"""Hangs: a worker that finishes no step for too long saves its stack traces and ends itself.

A thread that is stuck in a collective cannot be woken, so the process ends; the other workers and
Ray then see a dead worker, and the stack traces say why.
"""

from __future__ import annotations

import faulthandler
import os
import statistics
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location

STACKS = "stacks"
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h
STEPS = 20  # times the median step: a slow step is no hang
_KEPT_STEPS = 64
_GRACE_S = 3.0  # for the other workers, which hang too, to save theirs


class Watchdog:
    """Watches one worker's steps from a thread. Use it as a context."""

    def __init__(self, run: Location, rank: int, hang_after_s: float) -> None:
        """Args:
        run: the stage execution; stack traces go below its `stacks/`.
        hang_after_s: the least time without a step that counts as a hang.
        """
        self._run, self._rank, self._hang_after_s = run, rank, hang_after_s
        self._step_s: deque[float] = deque(maxlen=_KEPT_STEPS)
        self._step, self._alive_at = 0, time.monotonic()
        self._closed = threading.Event()

    def step(self, step: int) -> None:
        """A step was completed."""
        now = time.monotonic()
        self._step_s.append(now - self._alive_at)
        self._step, self._alive_at = step, now

    @property
    def limit_s(self) -> float:
        """How long a step may take: the spec's limit, or many times the median if that is more."""
        median_s = statistics.median(list(self._step_s)) if self._step_s else 0.0
        return max(self._hang_after_s, STEPS * median_s)

    def __enter__(self) -> Watchdog:
        self._alive_at = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._hang_after_s / 4)):
            quiet_s = time.monotonic() - self._alive_at
            if quiet_s > self.limit_s:
                try:
                    self._save_stacks(quiet_s)
                    time.sleep(_GRACE_S)
                finally:
                    os._exit(EXIT_CODE)

    def _save_stacks(self, quiet_s: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stacks.txt"
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"rank {self._rank}: no step for {quiet_s:.0f} s after {self._step}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            name = f"rank-{self._rank}-{time.time():.0f}.txt"
            with one_try():  # the worker ends, whether they are there or not
                (self._run / STACKS / name).upload(path)


def find_hang(run: Location, since: float) -> str | None:
    """What the stack traces saved since a time say of a hang; None when there are none."""
    names = [entry.name for entry in (run / STACKS).list()]
    newer = [name for name in names if int(name.removesuffix(".txt").split("-")[2]) >= int(since)]
    if not newer:
        return None
    first = (run / STACKS / newer[0]).read_text().partition("\n")[0]
    return f"hang ({first}); stack traces of {len(newer)} workers are in {run / STACKS}"
