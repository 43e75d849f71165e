"""Runs of tokens that are taken out of a row, and what comes of the rest."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from raymodel.chance import Chance
from raymodel.tasks.span_corruption import corrupt_row, corrupted_lengths, count_spans

SENTINELS = np.arange(1000, 1300)
END = 1


def corrupt(ids, special=(), *, key="a", sentinels=SENTINELS, **how):
    ids = np.asarray(ids)
    chance = Chance("test", key)
    flags = np.isin(ids, special)
    return corrupt_row(ids, flags, chance, sentinels=sentinels, end=END, **how)


def restored(read, written):
    """The row again: each sentinel in what is read is what follows it in what is written."""
    assert written[-1] == END
    runs = {}
    for token in written[:-1]:
        if token in SENTINELS:
            runs[int(token)] = []
            last = runs[int(token)]
        else:
            last.append(int(token))
    assert all(runs.values()), "a run has a token at least"
    back = [runs.pop(int(t)) if t in SENTINELS else [int(t)] for t in read]
    assert not runs, "a run that was written stands nowhere"
    return [token for part in back for token in part]


@pytest.mark.parametrize("length", [2, 3, 7, 20, 64, 512])
@pytest.mark.parametrize(("share", "mean_span"), [(0.15, 3.0), (0.5, 1.0), (0.9, 8.0)])
def test_what_is_read_and_what_is_written_are_the_row_again(length, share, mean_span):
    ids = np.arange(2, 2 + length)
    for key in range(20):
        read, written = corrupt(ids, key=key, share=share, mean_span=mean_span)
        assert restored(read, written) == ids.tolist()
        order = [t for t in read if t in SENTINELS]
        assert order == SENTINELS[: len(order)].tolist()
        assert (len(read), len(written)) == corrupted_lengths(length, share, mean_span)
        assert not any(a in SENTINELS and b in SENTINELS for a, b in pairwise(read))


def test_of_512_tokens_t5_takes_77_out_in_26_runs():
    assert count_spans(512) == (77, 26)
    assert count_spans(1) == count_spans(0) == (0, 0)
    assert count_spans(2) == (1, 1)


def test_special_tokens_stay_and_part_a_run():
    ids = np.array([5, 6, 0, 7, 8, 0, 9, 10, 11, 12])
    for key in range(50):
        read, written = corrupt(ids, [0], key=key, share=0.7, mean_span=6)
        assert restored(read, written) == ids.tolist()
        assert (read == 0).sum() == 2
        assert 0 not in written
    assert (
        max(
            (corrupt(ids, [0], key=key, share=0.7, mean_span=6)[0] >= 1000).sum()
            for key in range(50)
        )
        == 3
    )


def test_special_tokens_draw_no_number():
    ids, special = np.arange(2, 42), np.array([900])
    alone = corrupt(ids, special, key="x")
    with_them = corrupt(np.append(ids, special), special, key="x")
    assert with_them[0].tolist() == [*alone[0], 900]
    assert with_them[1].tolist() == alone[1].tolist()


def test_runs_beyond_the_sentinels_stay():
    read, written = corrupt(np.arange(2, 66), sentinels=SENTINELS[:2])
    assert restored(read, written) == list(range(2, 66))
    assert [t for t in read if t in SENTINELS] == [1000, 1001]


def test_nothing_is_asked_of_a_row_of_special_tokens_or_of_one_token():
    for ids in ([0, 0, 0], [7], []):
        read, written = corrupt(ids, [0])
        assert (read.tolist(), written.tolist()) == (ids, [])


def test_every_place_is_hidden_as_often_and_the_shares_are_those_asked_for():
    hidden = np.zeros(40)
    for key in range(3000):
        read, _ = corrupt(np.arange(2, 42), key=key)
        hidden += ~np.isin(np.arange(2, 42), read)
    assert hidden.sum() == 3000 * 6
    inside, edges = hidden[2:-2] / 3000, hidden[[0, 1, -2, -1]] / 3000
    assert inside.min() > 0.12
    assert inside.max() < 0.2
    assert edges.min() > 0.04, "T5's own code never hides the first token"
    assert edges.max() < 0.2, "and always the last"
    assert abs(hidden[:20].sum() - hidden[20:].sum()) < 300


def test_the_runs_of_a_row_are_fixed():  # else batches of a release are not those of the next
    read, written = corrupt(np.arange(2, 34))
    assert read.tolist() == [*range(2, 24), 1000, 27, 28, 29, 1001, 32, 33]
    assert written.tolist() == [1000, 24, 25, 26, 1001, 30, 31, END]
