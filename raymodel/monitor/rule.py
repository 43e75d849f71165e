"""When a class has become more frequent: decided from counts, without a clock or a disk."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Literal

from raymodel.monitor.spec import AlertSpec
from raymodel.monitor.windows import Counts, Windows
from raymodel.spec.base import fingerprint

Event = Literal["rise", "over", "usual"]
"""The share rose; it is back; it stayed high for a whole baseline, so that it is what is usual."""
_VERBS: dict[Event, str] = {"rise": "rose to", "over": "is back at", "usual": "stays at"}


def decide(spec: AlertSpec, now: Counts, before: Counts, *, is_raised: bool) -> Event | None:
    """What two counts say; None when nothing has changed.

    Too few texts decide nothing: an alert is neither raised nor over while nobody writes.

    Args:
        now: of the window.
        before: of the baseline, as it was when the alert was raised where one is.
        is_raised: an alert was raised and is not over.
    """
    if min(now.texts, before.texts) < spec.min_count:
        return None
    rise = now.share - before.share
    if is_raised:
        return "over" if rise < spec.rise * spec.clear else None
    return "rise" if rise >= spec.rise and z_of(now, before) >= spec.z else None


def z_of(now: Counts, before: Counts) -> float:
    """Standard errors between two shares, if both were of one population (pooled variance).

    0 where all texts are of the class, or none. Source: NIST/SEMATECH e-Handbook of Statistical
    Methods, 7.3.3, https://www.itl.nist.gov/div898/handbook/prc/section3/prc33.htm
    """
    num_texts = now.texts + before.texts
    pooled = (now.hits + before.hits) / num_texts if num_texts else 0.0
    variance = pooled * (1 - pooled)
    if not variance:
        return 0.0
    return (now.share - before.share) / math.sqrt(variance * (1 / now.texts + 1 / before.texts))


class Rule:
    """A rule with what it has counted.

    While its alert is raised, what was usual is what it was then: else a rise that stays would
    become a part of it, and each of its waves a rise of its own.

    Args:
        spec: the rule.
        saved: what `save` gave.
    """

    def __init__(self, spec: AlertSpec, saved: dict[str, Any] | None = None) -> None:
        self.spec = spec
        self.name = fingerprint(spec.identity())
        """A rule that is changed in the job file has another, and begins anew."""
        saved = saved or {"windows": None, "raised": 0, "since_s": None, "usual": None}
        self._windows = Windows(spec, saved["windows"])
        self._num_raised: int = saved["raised"]
        self._since_s: float | None = saved["since_s"]
        self._usual: Counts | None = saved["usual"] and Counts(*saved["usual"])

    def save(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "windows": self._windows.save(),
            "raised": self._num_raised,
            "since_s": self._since_s,
            "usual": self._usual,
        }

    @property
    def before(self) -> Counts:
        """What is compared with."""
        return self._usual or self._windows.before

    def is_old(self, time_s: float) -> bool:
        """Whether a text is from before the baseline, so that it counts nowhere."""
        return self._windows.is_old(time_s)

    def add(self, time_s: float, label: str) -> tuple[Event, dict[str, Any]] | None:
        """Counts a text; an event and what is told of it, where it makes one."""
        if self.is_old(time_s):
            return None
        self._windows.add(time_s, is_hit=label in self.spec.labels)
        now, before, since_s = self._windows.now, self.before, self._since_s
        event = decide(self.spec, now, before, is_raised=since_s is not None)
        if since_s is not None and time_s - since_s >= self.spec.baseline + self.spec.window:
            event = event or "usual"
        if event is None:
            return None
        if event == "rise":
            self._since_s, self._usual = time_s, before
            self._num_raised += 1
        else:
            self._since_s = self._usual = None
        return event, self._told(event, time_s, now, before)

    def _told(self, event: Event, time_s: float, now: Counts, before: Counts) -> dict[str, Any]:
        moment = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
        return {
            "id": f"{self.name}-{self._num_raised}-{event}",
            "event": event,
            "time": moment,
            "labels": list(self.spec.labels),
            "share": round(now.share, 4),
            "texts": now.texts,
            "share_before": round(before.share, 4),
            "texts_before": before.texts,
            "z": round(z_of(now, before), 2),
            "window_s": self.spec.window,
            "baseline_s": self.spec.baseline,
            "text": f"{' or '.join(self.spec.labels)} {_VERBS[event]} {now.share:.1%} of "
            f"{now.texts:,} texts (before: {before.share:.1%} of {before.texts:,}), {moment}",
        }
