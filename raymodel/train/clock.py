"""Where the time of a training process goes: every second belongs to exactly one activity."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

ACTIVITIES = ("start_up", "data_wait", "train", "checkpoint_stall", "validation", "other")


class Clock:
    """Books wall time. `switch` ends the running activity and starts another."""

    def __init__(self, started_at: float | None = None) -> None:
        self._mark = time.monotonic()
        self._now = "start_up"
        self.booked_s: dict[str, float] = defaultdict(float)
        if started_at is not None:  # the seconds before this process could look at a clock
            self.booked_s["start_up"] += max(0.0, time.time() - started_at)

    def switch(self, activity: str) -> str:
        """Books the time since the last switch; returns the activity that ended."""
        now = time.monotonic()
        self.booked_s[self._now] += now - self._mark
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
        return dict(self.booked_s)
