"""How far measures of other held-out rows might lie from those of these: bootstrap intervals.

The percentile bootstrap (Efron 1979, doi:10.1214/aos/1176344552): the rows are drawn again, as many
as there are and each with replacement, the measures are taken of what was drawn, and the interval
is the middle 95 % of what came out. It speaks of the rows that were held out, not of another
training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from raymodel.chance import Chance
from raymodel.observe.measures import is_measured

LEVEL = 0.95
_FEWEST, _MOST = 50, 200
"""Times that the rows are drawn: below, the ends of an interval are noise."""
_ROWS = 100_000
"""Drawn in all, at most: BLEU and its kin take a tenth of a millisecond each."""

Interval = tuple[float, float]


def bootstrap(
    measure: Callable[[list[int]], Mapping[str, float]], num_rows: int
) -> dict[str, Interval]:
    """Measure → the lower and the upper end of its interval; nothing of so many rows that drawing
    them again would take minutes, where it would be narrow, nor of a single one.

    The same rows have the same intervals.

    Args:
        measure: takes the measures of some rows, by their numbers.
        num_rows: how many rows there are.
    """
    times = min(_MOST, _ROWS // max(num_rows, 1))
    if num_rows < 2 or times < _FEWEST:
        return {}
    chance = Chance("bootstrap", num_rows)
    drawn: dict[str, list[float]] = {}
    for _ in range(times):
        for name, value in measure(chance.integers(num_rows, num_rows).tolist()).items():
            drawn.setdefault(name, []).append(value)
    outside = (1 - LEVEL) / 2
    return {
        name: (float(np.quantile(values, outside)), float(np.quantile(values, 1 - outside)))
        for name, values in drawn.items()
        if len(values) == times and all(map(is_measured, values))
    }
