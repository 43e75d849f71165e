"""What becomes of every record that is read: the account that has to add up.

A reader opens an entry for each record that it meets, before it looks inside; from there on the
record is either kept, or left out for a named reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SAMPLES_PER_REASON = 5
"""Of each reason in each partition: enough to see what is wrong with the data."""
SAMPLE_CHARS = 200
"""Of a record that was left out."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a record lies in its source."""

    file: str
    """Relative to the source's root."""
    line: int | None = None
    """The first is 1; the row of a table; None where the file is one record, or is not known."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One record that was left out."""

    reason: str
    place: Place
    sample: str
    """Its beginning, as far as it can be shown."""


@dataclass
class Account:
    """The records of one partition: `read` is what is kept plus what is left out."""

    read: int = 0
    """Records that were met: lines, rows, files or functions, readable or not."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → records."""
    rejects: list[Reject] = field(default_factory=list)
    """The first few of each reason."""
    place: Place = Place(file="")
    """Of the record that is looked at."""

    def begin(self, file: str, line: int | None = None) -> None:
        """Meets the next record."""
        self.read += 1
        self.place = Place(file=file, line=line)

    def leave_out(self, reason: str, sample: object = "") -> None:
        """The record that was begun is not kept.

        Args:
            reason: the same words for all records of a kind: they are counted by it.
            sample: bytes, text or fields of the record, to be shown.
        """
        self.left_out[reason] += 1
        if self.left_out[reason] <= SAMPLES_PER_REASON:
            self.rejects.append(
                Reject(reason=reason, place=self.place, sample=_sample_text(sample))
            )

    @property
    def kept(self) -> int:
        """Records that were not left out."""
        return self.read - self.left_out.total()


def _sample_text(sample: object) -> str:
    if isinstance(sample, bytes):
        sample = sample[: 4 * SAMPLE_CHARS].decode("utf-8", "replace")
    text = sample if isinstance(sample, str) else repr(sample)
    return text if len(text) <= SAMPLE_CHARS else text[: SAMPLE_CHARS - 1] + "…"


def first_rejects(rejects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first few of each reason, of the rejects of many partitions in their order."""
    seen: Counter[str] = Counter()
    chosen = []
    for reject in rejects:
        seen[reject["reason"]] += 1
        if seen[reject["reason"]] <= SAMPLES_PER_REASON:
            chosen.append(reject)
    return chosen
