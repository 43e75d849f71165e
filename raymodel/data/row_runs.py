"""Rows that a step goes through once more: runs of them that the data alone decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from raymodel.data.parts import PartPlan
from raymodel.data.plan import plan_shards
from raymodel.storage.uri import Location


@dataclass(frozen=True)
class RowRun:
    """Rows of one file, an item of a step."""

    file: Location
    start: int
    stop: int
    split: str


class WritesRows(Protocol):
    """A step that writes each run of rows anew, with more in each."""

    def rows_file(self, item: int) -> Location: ...


def plan_runs(parts: Sequence[PartPlan], most_rows: int) -> tuple[RowRun, ...]:
    """The items of such a step: every file of rows in runs, in the order of the parts."""
    return tuple(run for part in parts for run in _runs(part, most_rows))


def with_new_rows(
    parts: Sequence[PartPlan],
    step: WritesRows,
    summaries: Sequence[dict[str, Any]],
    most_rows: int,
) -> Iterator[PartPlan]:
    """The same parts, of the files that the step has written.

    Args:
        summaries: of its items, each with `memory_bytes`.
    """
    items = iter(range(len(summaries)))
    for part in parts:
        own = [(next(items), run.stop - run.start) for run in _runs(part, most_rows)]
        memory_bytes = sum(summaries[item]["memory_bytes"] for item, _ in own)
        yield replace(
            part,
            files=tuple((step.rows_file(item), rows) for item, rows in own),
            totals=part.totals | {"memory_bytes": memory_bytes},
            plan=plan_shards(part.totals["rows"], memory_bytes / part.totals["rows"]),
        )


def _runs(part: PartPlan, most_rows: int) -> Iterator[RowRun]:
    for file, rows in part.files:
        for start in range(0, rows, most_rows):
            yield RowRun(file, start, min(start + most_rows, rows), part.split)
