"""On which side of the holdout each class stands, and what moves where one would be missing.

A hash decides for each document alone, so of a rare class all may fall on one side: it could not be
learnt, or not be measured. Then one group of it moves, the one that the hash puts nearest to the
border, and with it all documents of that group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
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
        on both sides.

        A group with several classes moves for one of them only where each of the others keeps
        another group on its side; a class whose groups are all bound by that stays as it is.
        """
        found: dict[str, str] = {}
        sides_of = self._sides_by_group()
        for _, sides in sorted(self._sides.items()):
            for here, there in (("train", "holdout"), ("holdout", "train")):
                groups = [group for _, group in sides.get(here, ())]
                is_whole = bool(sides.get(there)) or not found.keys().isdisjoint(groups)
                if len(groups) < _KEPT or is_whole:
                    continue
                free = [each for each in groups if _may_leave(each, sides_of[each, here], found)]
                if free:
                    found[free[0]] = there
        return found

    def _sides_by_group(self) -> Mapping[tuple[str, str], list[Side]]:
        """(group, split) → the side there of each class that tells of the group."""
        found = defaultdict(list)
        for sides in self._sides.values():
            for split, side in sides.items():
                for _, group in side:
                    found[group, split].append(side)
        return found

    def _merge(self, label: str, split: str, more: Side) -> None:
        side = self._sides.setdefault(label, {}).setdefault(split, [])
        # The lowest keys of what is trained on, and the highest of what is held out.
        side[:] = sorted({*side, *more}, reverse=split == "holdout")[:_KEPT]


def _may_leave(group: str, sides: Iterable[Side], moved: Container[str]) -> bool:
    """Whether each of the sides that tell of a group keeps another one."""
    return all(any(g != group and g not in moved for _, g in side) for side in sides)
