"""How far a step of preparing data is, in one line: what it does, files, bytes, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from raymodel.data.step import SourceSize, Step
from raymodel.observe.text import duration_text

DOING = {
    "read": "reading",
    "sets": "reading evaluation sets",
    "dedup": "comparing",
    "units": "counting repeated text",
    "common": "comparing counts",
    "strip": "taking out repeated text",
    "contamination": "matching evaluation sets",
    "sketches": "sketching",
    "near": "comparing sketches",
    "tokenizer": "training the tokenizer",
    "rows": "making rows",
    "paraphrases": "translating there and back",
    "references": "asking the base",
    "shards": "writing shards",
}
"""What each step does, for people."""


class StepProgress:
    """Counts the items of a step as they are done."""

    def __init__(
        self, step: Step, missing: list[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins to count.

        Args:
            missing: the items to do; what else there is was done by an earlier attempt.
            clock: seconds.
        """
        self._step, self._clock, self._start_s = step, clock, clock()
        self._sizes = [step.source_size(item) for item in range(step.num_items)]
        self._total = _sum_of(self._sizes)
        self._done, self._done_size = set[int](), SourceSize()
        self.add(set(range(step.num_items)) - set(missing))
        self._before_bytes = self._done_size.bytes

    def add(self, items: Iterable[int]) -> None:
        """They are done."""
        new = set(items) - self._done
        self._done |= new
        self._done_size = _sum_of([self._done_size, *(self._sizes[item] for item in new)])

    @property
    def elapsed_s(self) -> float:
        """Since the count began."""
        return self._clock() - self._start_s

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return len(self._done) == self._step.num_items

    def text(self) -> str:
        """`reading 310 of 731 files · 5.1 of 12.1 MB · 2.4 MB/s · 3.0s left`.

        Steps that read no source count their own items.
        """
        name = DOING[self._step.name]
        (total_files, total_bytes), (files, done_bytes) = self._total, self._done_size
        if not total_bytes:
            return f"{name}: {len(self._done):,} of {self._step.num_items:,}"
        parts = [
            f"{name} {files:,} of {total_files:,} files",
            f"{done_bytes / 1e6:,.1f} of {total_bytes / 1e6:,.1f} MB",
        ]
        bytes_per_s = (done_bytes - self._before_bytes) / max(self.elapsed_s, 1e-9)
        if bytes_per_s:
            parts.append(f"{bytes_per_s / 1e6:,.1f} MB/s")
            if not self.is_complete:
                left = duration_text((total_bytes - done_bytes) / bytes_per_s)
                parts.append(f"{left} left")
        return " · ".join(parts)


def _sum_of(sizes: Iterable[SourceSize]) -> SourceSize:
    files = total_bytes = 0
    for size in sizes:
        files, total_bytes = files + size.files, total_bytes + size.bytes
    return SourceSize(files, total_bytes)
