"""Which of the inputs that wait are computed together."""

import random

import pytest

from raymodel.serve.fill import next_batch


def test_rows_without_tokens_go_in_their_order():
    assert next_batch([0] * 10, 4) == [0, 1, 2, 3]


def test_who_waits_alone_is_not_held_up():
    assert next_batch([500], 32) == [0]


def test_short_texts_do_not_pay_for_a_long_one_that_came_between_them():
    lengths = [16, 512, 16, 17, 16]
    assert next_batch(lengths, 32) == [0, 2, 3, 4]
    assert next_batch(lengths[1:], 32) == [0], "who came first is answered, alone"


def test_a_batch_takes_those_of_the_nearest_lengths():
    assert next_batch([100, 20, 104, 30, 97, 99], 3) == [0, 4, 5]


def test_where_a_batch_of_its_own_is_dear_lengths_are_mixed():
    lengths = [16, 128, 64, 30]
    assert next_batch(lengths, 4, pass_tokens=4096) == [0, 1, 2, 3]
    assert next_batch(lengths, 4, pass_tokens=0) == [0]


@pytest.mark.parametrize("seed", range(5))
def test_all_are_answered_and_padding_stays_within_its_bound(seed):
    draw = random.Random(seed)
    waiting = [draw.randint(1, 512) for _ in range(200)]
    while waiting:
        taken = next_batch(waiting, 16)
        assert taken[0] == 0
        assert taken == sorted(set(taken))
        assert len(taken) <= 16
        rows = [waiting[place] for place in taken]
        assert max(rows) * len(rows) - sum(rows) <= 64 + sum(rows) / 8
        waiting = [row for place, row in enumerate(waiting) if place not in taken]
