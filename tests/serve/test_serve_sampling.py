"""Sampling: the distribution that was asked for, and nothing outside it."""

import random
from collections import Counter

import pytest
import torch

from raymodel.serve.logits import choose_tokens
from raymodel.serve.sampling import Sampling

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


def draw(count, **kwargs):
    sampling = Sampling(max_tokens=1, **kwargs)
    draws = random.Random(0)
    return Counter(choose_tokens(LOGITS[None], [sampling], [draws])[0] for _ in range(count))


def test_temperature_zero_is_the_most_likely():
    assert draw(20, temperature=0) == {0: 20}


def test_temperature_one_follows_the_model():
    found = draw(4000)
    assert [found[token] / 4000 for token in range(4)] == pytest.approx(
        [0.5, 0.25, 0.15, 0.1], abs=0.03
    )


def test_a_low_temperature_sharpens():
    # 0.5² / (0.5² + 0.25² + 0.15² + 0.1²)
    assert draw(4000, temperature=0.5)[0] / 4000 == pytest.approx(0.25 / 0.345, abs=0.03)


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    assert set(draw(500, top_p=0.5)) == {0}
    assert set(draw(500, top_p=0.51)) == {0, 1}
    found = draw(4000, top_p=0.75)
    assert found[0] / 4000 == pytest.approx(2 / 3, abs=0.03)


def test_a_tiny_temperature_does_not_overflow():
    assert draw(20, temperature=1e-30) == {0: 20}


def test_the_highest_uniform_number_still_names_a_possible_token():
    class Highest(random.Random):
        def random(self):
            return 1.0

    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    for top_p in (1.0, 0.99):
        assert choose_tokens(logits, [Sampling(max_tokens=1, top_p=top_p)], [Highest()]) == [1]


def test_each_row_is_sampled_in_its_own_way():
    samplings = [Sampling(max_tokens=1, temperature=0), Sampling(max_tokens=1, top_p=0.3)]
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    assert choose_tokens(logits, samplings, [random.Random(0)] * 2) == [0, 3]


def test_a_nucleus_wider_than_the_first_ranking_is_whole():
    logits = torch.zeros(2, 1000)
    logits[1, 7] = 20.0  # a narrow row beside the wide one
    samplings = [Sampling(max_tokens=1, top_p=0.9)] * 2
    draws = [random.Random(0), random.Random(1)]
    found = [choose_tokens(logits, samplings, draws) for _ in range(3000)]
    # 900 of 1,000 equal tokens, of which 3,000 draws meet nearly all.
    assert 800 < len({wide for wide, _ in found}) <= 901
    assert {narrow for _, narrow in found} == {7}
