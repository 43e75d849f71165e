"""How frequent a class is now, and how frequent it was before: counts by time."""

from __future__ import annotations

from typing import Any, NamedTuple

from raymodel.monitor.spec import BUCKETS, AlertSpec


class Counts(NamedTuple):
    """Of the texts in a stretch of time."""

    texts: int
    """All of them."""
    hits: int
    """Those of the class."""

    @property
    def share(self) -> float:
        """Of those of the class; 0 of no texts."""
        return self.hits / self.texts if self.texts else 0.0


class Windows:
    """The window of a rule and the baseline before it, in buckets of a tenth of a window.

    Its size does not grow with the texts. The newest text says what time it is, so that what was
    written while nobody read is counted where it belongs.

    Args:
        spec: how long both are.
        saved: what `save` gave.
    """

    def __init__(self, spec: AlertSpec, saved: dict[str, Any] | None = None) -> None:
        self._bucket_s = spec.window / BUCKETS
        self._most = BUCKETS + round(spec.baseline / self._bucket_s)
        saved = saved or {"newest": None, "buckets": []}
        self._newest: int | None = saved["newest"]
        self._buckets: dict[int, Counts] = {i: Counts(n, k) for i, n, k in saved["buckets"]}
        self._total = _sum(self._buckets.values())

    def save(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"newest": self._newest, "buckets": [[i, *c] for i, c in self._buckets.items()]}

    def is_old(self, time_s: float) -> bool:
        """Whether a text is from before the oldest bucket, in seconds since 1970."""
        return self._newest is not None and self._index(time_s) <= self._newest - self._most

    def add(self, time_s: float, *, is_hit: bool) -> None:
        """Counts a text that is not old."""
        index = self._index(time_s)
        if self._newest is None or index > self._newest:
            self._move_to(index)
        was = self._buckets.get(index, Counts(0, 0))
        self._buckets[index] = Counts(was.texts + 1, was.hits + is_hit)
        self._total = Counts(self._total.texts + 1, self._total.hits + is_hit)

    def _index(self, time_s: float) -> int:
        return int(time_s // self._bucket_s)

    @property
    def now(self) -> Counts:
        """Of the window."""
        if self._newest is None:
            return Counts(0, 0)
        first = self._newest - BUCKETS + 1
        return _sum(self._buckets.get(i, Counts(0, 0)) for i in range(first, self._newest + 1))

    @property
    def before(self) -> Counts:
        """Of the baseline."""
        now = self.now
        return Counts(self._total.texts - now.texts, self._total.hits - now.hits)

    def _move_to(self, index: int) -> None:
        self._newest = index
        kept = {i: c for i, c in self._buckets.items() if i > index - self._most}
        if len(kept) < len(self._buckets):
            self._buckets, self._total = kept, _sum(kept.values())


def _sum(counts: Any) -> Counts:
    texts = hits = 0
    for each in counts:
        texts, hits = texts + each.texts, hits + each.hits
    return Counts(texts, hits)
