"""Where the time of a training process goes: every second belongs to exactly one activity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Books wall time. `switch` ends the running activity and starts another.

    The activities are named in `observe/goodput.py`.
    """

    def __init__(self) -> None:
        self.began_at = time.time()
        """Unix time at which the first activity, `start_up`, began."""
        self._mark = time.monotonic()
        self._now = "start_up"
        self._booked_s: dict[str, float] = defaultdict(float)

    def switch(self, activity: str) -> str:
        """Books the time since the last switch; returns the activity that ended."""
        now = time.monotonic()
        self._booked_s[self._now] += now - self._mark
        self._mark, ended, self._now = now, self._now, activity
        return ended

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        before = self.switch(activity)
        try:
            yield
        finally:
            self.switch(before)

    def read(self) -> dict[str, float]:
        """Seconds booked so far, the running activity included."""
        self.switch(self._now)
        return dict(self._booked_s)

    def rebook(self, activity: str, to: str, seconds: float) -> None:
        """Moves time that turned out to be spent on something else."""
        self.switch(self._now)
        self._booked_s[activity] -= seconds
        self._booked_s[to] += seconds
