"""On which side of the holdout each class stands, and what moves where one would be missing.

A hash decides for each document alone, so of a rare class all may fall on one side: it could not be
learnt, or not be measured. Then one group of it moves, the one that the hash puts nearest to the
border, and with it all documents of that group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_KEPT = 2  # groups of a class and side that a partition tells of: one may move only if one stays

Side = list[tuple[int, str]]
"""(holdout key, group in hex), sorted."""


class Sides:
    """The groups of each class nearest to the border, of one partition or of all."""

    def __init__(self) -> None:
        self._sides: dict[str, dict[str, Side]] = {}

    def add(self, label: str, split: str, key: int, group: str) -> None:
        """A document that the hash has put on a side."""
        self._merge(label, split, [(key, group)])

    def add_summary(self, summary: Mapping[str, Mapping[str, Iterable[Any]]]) -> None:
        """What another partition has told by `summary`."""
        for label, sides in summary.items():
            for split, side in sides.items():
                self._merge(label, split, [(int(key), str(group)) for key, group in side])

    def summary(self) -> dict[str, dict[str, Side]]:
        """As JSON: label → split → groups."""
        return self._sides

    def moves(self) -> dict[str, str]:
        """Group in hex → the split that it moves to, so that every class of two groups or more is
        on both sides."""
        found = {}
        for _, sides in sorted(self._sides.items()):
            for here, there in (("train", "holdout"), ("holdout", "train")):
                if len(sides.get(here, ())) == _KEPT and not sides.get(there):
                    found[sides[here][0][1]] = there
        return found

    def _merge(self, label: str, split: str, more: Side) -> None:
        side = self._sides.setdefault(label, {}).setdefault(split, [])
        # The lowest keys of what is trained on, and the highest of what is held out.
        side[:] = sorted({*side, *more}, reverse=split == "holdout")[:_KEPT]
