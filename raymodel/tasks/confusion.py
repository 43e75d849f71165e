"""Which class is taken for which: the confusion matrix, and where it would be too large, the pairs
of classes that are confused most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from raymodel.tasks.base import Table

MOST_CLASSES, MOST_PAIRS = 20, 20
"""What a page has room for."""
_BRIEF_PAIRS = 3
_TITLE = "Confusion matrix"


def confusion_table(answered: Sequence[str], truth: Sequence[str]) -> Table:
    """Of the names of classes, one of each for every row.

    The matrix has the classes that occur in either; a line for each that is true, a column for each
    that was answered.
    """
    counts, of_class = Counter(zip(truth, answered, strict=True)), Counter(truth)
    wrong = [(right, said, count) for (right, said), count in counts.items() if right != said]
    wrong.sort(key=lambda pair: (-pair[2], pair[:2]))
    told = [
        f"{right} for {said} ({count} of {of_class[right]})"
        for right, said, count in wrong[:_BRIEF_PAIRS]
    ]
    brief = f"most often taken for another: {', '.join(told)}" if told else ""
    names = sorted({*answered, *truth})
    if len(names) <= MOST_CLASSES:
        return Table(
            title=_TITLE,
            brief=brief,
            note="A line for each class that is true, a column for each that was answered.",
            head=["", *names],
            rows=[[right, *(counts[right, said] for said in names)] for right in names],
        )
    return Table(
        title=_TITLE,
        brief=brief,
        note=f"Of {len(names):,} classes, the pairs that are confused most, {len(wrong):,} in all.",
        head=["true", "answered", "rows", "of the class"],
        rows=[[right, said, n, of_class[right]] for right, said, n in wrong[:MOST_PAIRS]],
    )
