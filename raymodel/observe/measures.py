"""Comparing measures: which value is better, and which of many is the best.

The one place that knows that NaN, infinity and "not measured" win nothing; which way a measure
goes, its task says. Python's own comparisons do not: NaN is neither below nor above any number, so
the first of a `min` stays when it is NaN.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard, TypeVar

T = TypeVar("T")

_CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def is_measured(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to compare: None is none, NaN and the infinities neither."""
    return value is not None and math.isfinite(value)


def measured(value: float | None) -> float | None:
    """The number, or None where there is none: as JSON takes it, which knows no NaN."""
    return value if is_measured(value) else None


def is_better(value: float | None, than: float | None, *, higher: bool) -> bool:
    """Whether one value of a measure is better than another, and not just as good.

    A number is better than none; without a number nothing is better.

    Args:
        higher: whether the higher value is the better one.
    """
    if not is_measured(value):
        return False
    if not is_measured(than):
        return True
    return value > than if higher else value < than


def find_best(
    items: Iterable[T], value_of: Callable[[T], float | None], *, higher: bool
) -> T | None:
    """The item with the best value of a measure, the first of equals; None without a number.

    Args:
        items: what is compared.
        value_of: gives an item's value.
        higher: whether the higher value is the better one.
    """
    best: tuple[float | None, T | None] = (None, None)
    for item in items:
        value = value_of(item)
        if is_better(value, best[0], higher=higher):
            best = value, item
    return best[1]


def holds(value: float | None, condition: str, bound: float) -> bool:
    """Whether a measure meets `value condition bound`, where the condition is `<`, `<=`, `>` or
    `>=`. What was not measured, or is not finite, meets none."""
    return is_measured(value) and _CONDITIONS[condition](value, bound)
