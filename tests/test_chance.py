"""Every random choice comes from here: fixed numbers, fair, and of the row's place alone."""

from __future__ import annotations

import numpy as np
import pytest

from raymodel.chance import Chance, Draw


def test_the_numbers_are_fixed_for_good():
    assert Chance("row", 7, 0, 0).bits(3).tolist() == [
        17678721451229877071,
        4271143950200471025,
        16389222034981607935,
    ]


def test_what_is_drawn_at_once_is_what_is_drawn_one_by_one():
    whole, pieces = Chance("a", 1), Chance("a", 1)
    assert whole.bits(100).tolist() == [
        *pieces.bits(1).tolist(),
        *pieces.bits(59).tolist(),
        *pieces.bits(40).tolist(),
    ]


def test_draws_are_even_and_within_their_bounds():
    uniform = Chance("even", 3).uniform(100_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    counts, _ = np.histogram(uniform, bins=20, range=(0, 1))
    assert np.abs(counts - 5_000).max() < 350  # five deviations of 69
    assert np.bincount(Chance("die", 3).integers(6, 60_000), minlength=6).min() > 9_500
    normal = Chance("bell", 3).normal(100_000)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert sum(Chance("coin", 3, i).is_true(0.3) for i in range(10_000)) == pytest.approx(
        3_000, abs=230
    )


def test_streams_of_neighbouring_rows_and_steps_are_unrelated():
    streams = [
        Draw(7, step, [position]).of_row(0).uniform(1_000)
        for step in range(4)
        for position in range(4)
    ]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < 0.15


def test_a_rows_chance_does_not_know_with_whom_it_is_collated():
    together = Draw(7, 11, range(8))
    alone = Draw(7, 11, [5])
    part = together.part(4, 7)
    expected = together.of_row(5).bits(4).tolist()
    assert alone.of_row(0).bits(4).tolist() == expected
    assert part.of_row(1).bits(4).tolist() == expected
    assert len(part) == 3
    assert together.of_step().bits(1) == alone.of_step().bits(1)
    assert Draw(8, 11, [5]).of_row(0).bits(4).tolist() != expected


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 2.0])
def test_shares_of_a_beta_distribution_have_its_mean_and_its_spread(alpha):
    chance = Chance("share", 3)
    shares = np.array([chance.beta(alpha) for _ in range(4_000)])
    assert shares.min() >= 0
    assert shares.max() <= 1
    assert shares.mean() == pytest.approx(0.5, abs=0.04)  # five deviations of 0.5 / sqrt(4000)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    if alpha == 1.0:
        assert np.histogram(shares, bins=4, range=(0, 1))[0].min() > 860


def test_what_is_drawn_for_another_purpose_does_not_change_a_rows_chance():
    draw = Draw(7, 11, [5])
    expected = draw.of_row(0).bits(3).tolist()
    other = draw.of_row(0, "mix").bits(3).tolist()
    assert draw.of_row(0).bits(3).tolist() == expected
    assert not set(expected) & set(other)
    assert draw.of_row(0, "partner").bits(3).tolist() != other
