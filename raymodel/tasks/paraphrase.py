"""Rows that have their texts in other words beside them: which of the two a step is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymodel.tasks.base.values import Columns
from raymodel.tasks.spec.base import AnyTask

if TYPE_CHECKING:
    from raymodel.chance import Draw

PARAPHRASE = "paraphrase_"
"""Before the name of a column, a list: the same of the paraphrase. Empty without one."""


def drawn_paraphrases(rows: Columns, spec: AnyTask | None, draw: Draw | None) -> Columns:
    """The rows with some of their paraphrases in the place of what they are made from.

    The columns of a row are exchanged together, by one number of the row at this step. Where
    nothing is left to chance, or nobody paraphrased, the rows are what they were.
    """
    made_by = spec.back_translation if spec is not None else None
    told = {
        column: column.removeprefix(PARAPHRASE) for column in rows if column.startswith(PARAPHRASE)
    }
    if draw is None or made_by is None or not told:
        return rows
    first = next(iter(told))
    is_shown = [
        len(words) > 0 and draw.of_row(row, "paraphrase").is_true(made_by.probability)
        for row, words in enumerate(rows[first])
    ]
    exchanged = {
        own: [rows[(own, column)[shown]][row] for row, shown in enumerate(is_shown)]
        for column, own in told.items()
    }
    return {**rows, **exchanged}
