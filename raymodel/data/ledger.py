"""The accounts of all partitions together: do they add up, and is enough of the data left?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from raymodel.data.account import (
    PLACE_COLUMNS,
    SAMPLES_PER_REASON,
    Place,
    encodable,
    found_lines,
)
from raymodel.errors import AccountError, SourceError

_MESSAGE_CHARS = 60  # of a record that a message shows
_MESSAGE_SAMPLES = 2  # of each reason


class Ledger:
    """The records of a dataset, by source."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = [encodable(source) for source in sources]
        self._read = [0 for _ in sources]
        self._left_out: list[Counter[str]] = [Counter() for _ in sources]
        self._found: list[Counter[tuple[str, str]]] = [Counter() for _ in sources]
        self._changed: dict[str, Counter[str]] = {}
        self._sampled: Counter[tuple[str, str]] = Counter()
        self.rejects: list[dict[str, Any]] = []
        """The first few of each reason and source, in the order of the partitions."""

    @property
    def read(self) -> int:
        """Records that were met."""
        return sum(self._read)

    @property
    def left_out(self) -> dict[str, int]:
        """Reason → records."""
        return dict(sorted(sum(self._left_out, Counter[str]()).items()))

    @property
    def by_source(self) -> list[dict[str, Any]]:
        """Of each source its `path`, what was `read`, and what was `left_out` by reason."""
        return [
            {"path": path, "read": read, "left_out": dict(sorted(left_out.items()))}
            for path, read, left_out in zip(self._sources, self._read, self._left_out, strict=True)
        ]

    def add(self, source_index: int, account: dict[str, Any], *, met_before: bool = False) -> None:
        """Enters the summary of a partition's account.

        Args:
            met_before: its records were read, and entered, by an earlier step.
        """
        self._read[source_index] += 0 if met_before else account["read"]
        self._left_out[source_index].update(account["left_out"])
        for what, way, count in account.get("found", ()):  # of work that was begun before it was
            self._found[source_index][what, way] += count
        for step, counts in account.get("changed", {}).items():
            self._changed.setdefault(step, Counter()).update(counts)
        for reject in account["rejects"]:
            key = reject["source"], reject["reason"]
            self._sampled[key] += 1
            if self._sampled[key] <= SAMPLES_PER_REASON:
                self.rejects.append(reject)

    @property
    def changed(self) -> dict[str, dict[str, int]]:
        """Cleaning step → `RECORDS`, those that it changed, and what else it tells → how many."""
        steps = sorted(self._changed.items())
        return {step: dict(sorted(counts.items())) for step, counts in steps}

    @property
    def found(self) -> list[str]:
        """What no job file says of the data and was found in it, a line each way and source."""
        pairs = zip(self._sources, self._found, strict=True)
        return [line for source, found in pairs for line in found_lines(source, found)]

    def check_share(self, max_left_out: float, asked_for: frozenset[str], see: str) -> None:
        """Refuses to go on with what is left when a source lost too much of what was read of it.

        Args:
            max_left_out: a share, of each source.
            asked_for: reasons that the job file gives; records left out for them do not count.
            see: closes the message: where more samples lie.

        Raises:
            SourceError: with the share of each reason, and where its first records lie.
        """
        for source, read, left_out in zip(self._sources, self._read, self._left_out, strict=True):
            bad = Counter({r: count for r, count in left_out.items() if r not in asked_for})
            if bad.total() > max_left_out * read:
                share = bad.total() / read
                raise SourceError(
                    f"source {source!r}: {bad.total():,} of {read:,} records read are left out "
                    f"({share:.1%}), more than max_left_out ({max_left_out:.1%}) allows:\n"
                    + "".join(
                        f"  {count / read:.1%}  {reason}\n{self._samples_text(source, reason)}"
                        for reason, count in bad.most_common()
                    )
                    + "Check `format`, `encoding` and the names of the fields, mend the records, "
                    f"or raise max_left_out to go on with the rest{see}"
                )

    def _samples_text(self, source: str, reason: str) -> str:
        of_reason = [r for r in self.rejects if (r["source"], r["reason"]) == (source, reason)]
        return "".join(
            f"         {Place(**{name: reject[name] for name in PLACE_COLUMNS})}: "
            f"{_shortened(reject['sample'])}\n"
            for reject in of_reason[:_MESSAGE_SAMPLES]
        )

    def check_balance(self, rows: dict[str, int], duplicates: int) -> str:
        """What became of everything, in one line.

        Args:
            rows: split → records that became rows in it.
            duplicates: records that were dropped because another is equal.

        Raises:
            AccountError: it does not add up to what was read.
        """
        left_out = sum(self.left_out.values())
        parts = {"to train on": rows["train"], "held out": rows["holdout"]}
        if rows["test"]:
            parts["to test on"] = rows["test"]
        parts |= {"duplicates": duplicates, "left out": left_out}
        text = f"read {self.read:,}: " + ", ".join(f"{n:,} {what}" for what, n in parts.items())
        if sum(parts.values()) != self.read:
            raise AccountError(
                f"{text}: that makes {sum(parts.values()):,}. Every record that is read must end "
                "in one of them; this is a fault of raymodel, not of the data. Please report it, "
                "with the job file"
            )
        return text


def _shortened(sample: str) -> str:
    """A sample as part of a message: one line, without control characters."""
    shown = repr(sample)
    return shown if len(shown) <= _MESSAGE_CHARS else shown[: _MESSAGE_CHARS - 1] + "…"
