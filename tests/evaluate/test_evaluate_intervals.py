"""Intervals of measures, from drawing the held-out rows again."""

import math
from itertools import pairwise

import pytest

from raymodel.evaluate.intervals import bootstrap
from raymodel.evaluate.measure import Found, _intervals
from raymodel.tasks import get_task


def share(right: list[bool], name: str = "accuracy"):
    return lambda rows: {name: sum(right[row] for row in rows) / len(rows)}


@pytest.mark.parametrize(("count", "rate"), [(50, 0.5), (500, 0.9), (1999, 0.2)])
def test_the_interval_of_a_share_is_that_of_its_binomial(count: int, rate: float) -> None:
    right = [index < rate * count for index in range(count)]
    low, high = bootstrap(share(right), count)["accuracy"]
    deviation = math.sqrt(rate * (1 - rate) / count)
    assert low < rate < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.25)


def test_the_same_rows_have_the_same_interval_and_more_rows_a_narrower_one() -> None:
    found = [bootstrap(share([True, False] * half), 2 * half)["accuracy"] for half in (20, 200)]
    assert bootstrap(share([True, False] * 20), 40)["accuracy"] == found[0]
    assert all(wide > narrow for wide, narrow in pairwise(high - low for low, high in found))


def test_what_is_not_a_number_or_takes_minutes_has_none() -> None:
    assert bootstrap(lambda rows: {"pearson": math.nan}, 10) == {}
    assert bootstrap(share([True]), 1) == {}
    assert bootstrap(share([True] * 3000), 3000) == {}


@pytest.mark.parametrize(
    ("name", "answer", "names", "expected"),
    [
        ("text_classification", {"label": "a", "probs": [1.0, 0.0]}, ["accuracy"], {"accuracy"}),
        ("causal_lm", {"text": "an answer"}, ["perplexity", "chrf"], {"chrf"}),
        ("embedding", {"embedding": [1.0, 0.0], "document": [1.0, 0.0]}, ["mrr"], set()),
    ],
)
def test_measures_of_rows_have_intervals(name, answer, names, expected) -> None:
    """The likelihood of a whole text has none, nor what is found among all other rows."""
    references = ["a", "an answer"] * 5
    found = Found(answers=[answer] * 10, references=references)
    assert set(_intervals(get_task(name)(labels=("a",)), found, names)) == expected
