"""Two trainings that take turns: what their rates are, and what has none."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def side(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from turns import Side

    yield lambda records: Side(
        SimpleNamespace(args=["train"]),
        lambda: records,
        Path("other.txt"),
        turns=[(100.0, 110.0), (120.0, 130.0)],
    )
    sys.modules.pop("turns")


def test_the_time_of_the_others_turns_does_not_count(side):
    records = [(90.0, 1), (101.0, 2), (109.0, 10), (121.0, 12), (129.0, 20)]
    assert side(records).rates(1) == pytest.approx([1.0])
    assert side(records).rates(4) == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("records", [[], [(90.0, 1)], [(90.0, 1), (105.0, 2)]])
def test_a_side_that_makes_no_step_fails_with_what_to_do(side, records):
    with pytest.raises(RuntimeError, match=r"records of steps in 2 turns of 20 s .* longer turns"):
        side(records).rates(4)
