"""The order of rows: exact, independent of workers, and computed in constant memory."""

from itertools import pairwise

import numpy as np
import pytest

from raymodel.chance import derive_key
from raymodel.data.interleave import floor_sum
from raymodel.data.order import DataDigest, Leg, Order, Part, local_sum, slice_for
from raymodel.data.permutation import Permutation

MIXTURES = {
    "one row": [Part(1, 1)],
    "one block": [Part(5, 8)],
    "a short last block": [Part(1000, 7)],
    "many windows": [Part(1200, 3)],
    "two sources": [Part(900, 3), Part(77, 5)],
    "weights": [Part(500, 3, 2.0), Part(77, 5, 0.5), Part(3, 1)],
}


def read_epochs(order: Order, epochs: int) -> list[np.ndarray]:
    total = order.rows_per_epoch * epochs
    steps = range(-(-total // order.global_batch))
    rows = np.concatenate([order.rows(step) for step in steps])[:total]
    return np.split(rows, epochs)


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 1000, 4096, 65537])
def test_a_permutation_hits_each_number_once(n: int) -> None:
    image = Permutation(n, derive_key("a seed", n))(np.arange(n))
    assert np.array_equal(np.sort(image), np.arange(n))


def test_a_permutation_depends_on_its_key() -> None:
    n = np.arange(1000)
    first, second = (Permutation(1000, derive_key(seed))(n) for seed in (1, 2))
    assert (first == second).mean() < 0.01
    assert (first == n).mean() < 0.01


def test_the_order_of_this_seed_never_changes() -> None:
    # Written down once: a change would silently give resumed runs other data.
    order = Order([Part(100, 8), Part(40, 5, 2.0)], seed=7, global_batch=6)
    assert [order.rows(step).tolist() for step in (0, 25, 10**9)] == PINNED


PINNED = [
    [86, 53, 132, 42, 124, 118],
    [9, 106, 122, 19, 104, 47],
    [112, 15, 111, 67, 20, 117],
]


@pytest.mark.parametrize("parts", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("global_batch", [3, 64])
def test_every_epoch_visits_every_row_as_often_as_its_weight_says(
    parts: list[Part], global_batch: int
) -> None:
    order = Order(parts, seed=7, global_batch=global_batch, window_blocks=16)
    for rows in read_epochs(order, 3):
        visits = np.bincount(rows, minlength=order.num_rows)
        first = 0
        for part in parts:
            own = visits[first : first + part.rows]
            assert own.sum() == max(1, round(part.weight * part.rows))
            if part.weight == 1:
                assert (own == 1).all()
            first += part.rows


def test_a_weight_of_a_half_takes_two_epochs_for_each_row() -> None:
    order = Order([Part(100, 8), Part(80, 8, 0.5)], seed=1, global_batch=10)
    visits = np.bincount(np.concatenate(read_epochs(order, 2)), minlength=180)
    assert (visits[100:] == 1).all()


THREE = [Part(500, 7), Part(90, 4, 2.0), Part(33, 5)]
CURRICULUM = [Leg(0, (1.0, 2.0, 1.0)), Leg(20, (0.0, 1.0, 4.0)), Leg(33, (3.0, 0.5, 0.0))]


def test_a_run_of_one_stage_with_the_own_weights_is_a_run_without_stages() -> None:
    staged = Order(THREE, 7, 10, legs=[Leg(0, tuple(part.weight for part in THREE))])
    plain = Order(THREE, 7, 10)
    assert all((staged.rows(step) == plain.rows(step)).all() for step in (0, 3, 99, 10**8))


def test_each_stage_has_its_own_shares_and_a_part_that_weighs_nothing_stays_away() -> None:
    order = Order(THREE, 7, 10, legs=CURRICULUM)
    part_of = np.repeat(range(3), [part.rows for part in THREE])
    ends = [leg.first_step for leg in CURRICULUM[1:]] + [80]
    for leg, end in zip(CURRICULUM, ends, strict=True):
        rows = np.concatenate([order.rows(step) for step in range(leg.first_step, end)])
        sizes = [part.rows * weight for part, weight in zip(THREE, leg.weights, strict=True)]
        counts = np.bincount(part_of[rows], minlength=3)
        for count, size in zip(counts, sizes, strict=True):
            assert count == pytest.approx(len(rows) * size / sum(sizes), abs=4)
            assert (count == 0) == (size == 0)


def test_a_stage_goes_on_with_the_rows_of_a_part_where_the_one_before_left_off() -> None:
    order = Order(THREE, 7, 10, legs=CURRICULUM)
    rows = np.concatenate([order.rows(step) for step in range(200)])
    visits, counts = np.bincount(rows, minlength=order.num_rows), order.visits(200)
    first = 0
    for part, count in zip(THREE, counts, strict=True):
        own = visits[first : first + part.rows]
        assert own.sum() == count
        assert own.max() - own.min() <= 1, "no row comes again before all others came"
        first += part.rows


def test_visits_of_any_step_are_those_of_the_steps_before() -> None:
    order, seen = Order(THREE, 7, 10, legs=CURRICULUM), np.zeros(3, dtype=np.int64)
    part_of = np.repeat(range(3), [part.rows for part in THREE])
    for step in range(90):
        assert order.visits(step) == seen.tolist()
        seen += np.bincount(part_of[order.rows(step)], minlength=3)


def test_epochs_and_seeds_differ() -> None:
    parts = [Part(1000, 10)]
    first, second = read_epochs(Order(parts, 7, 10), 2)
    (other,) = read_epochs(Order(parts, 8, 10), 1)
    assert (first == second).mean() < 0.02
    assert (first == other).mean() < 0.02


def test_every_stretch_of_a_mixture_holds_each_source_in_its_share() -> None:
    order = Order([Part(9000, 30), Part(1000, 30)], seed=3, global_batch=100)
    second = np.array([(order.rows(step) >= 9000).sum() for step in range(100)])
    assert second.sum() == 1000
    assert second.min() >= 8
    assert second.max() <= 12


def test_rows_stay_within_a_window_of_blocks() -> None:
    order = Order([Part(64_000, 10)], seed=3, global_batch=1280, window_blocks=128)
    for step in range(50):
        assert len(np.unique(order.rows(step) // 10)) <= 128


@pytest.mark.parametrize("num_parts", [2, 5])
def test_the_blocks_read_at_a_time_do_not_grow_with_the_parts(num_parts: int) -> None:
    parts = [Part(40_000, 10, 1.0 + place % 2) for place in range(num_parts)]
    order = Order(parts, seed=3, global_batch=640, window_blocks=128)
    for step in range(20):  # a step may begin in one window of a part and end in the next
        assert len(np.unique(order.rows(step) // 10)) <= 2 * 128


def test_a_window_mixes_blocks_from_everywhere() -> None:
    order = Order([Part(64_000, 10)], seed=3, global_batch=1280, window_blocks=128)
    blocks = np.unique(order.rows(0) // 10)
    assert blocks.std() == pytest.approx(6400 / np.sqrt(12), rel=0.2)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, 32])
def test_workers_share_out_the_global_batch(world_size: int) -> None:
    slices = [slice_for(rank, world_size, 32) for rank in range(world_size)]
    expected = [len(piece) for piece in np.array_split(np.arange(32), world_size)]
    assert [stop - start for start, stop in slices] == expected
    assert slices[0][0] == 0
    assert slices[-1][1] == 32
    assert all(a[1] == b[0] for a, b in pairwise(slices))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_digest_does_not_depend_on_the_number_of_workers(world_size: int) -> None:
    order, digest, alone = Order([Part(500, 8)], 7, 30), DataDigest(), DataDigest()
    for step in range(5):
        rows, positions = order.rows(step), np.arange(30)
        alone.update(step, local_sum(positions, rows))
        sums = []
        for rank in range(world_size):
            start, stop = slice_for(rank, world_size, 30)
            sums.append(np.int64(local_sum(positions[start:stop], rows[start:stop])))
        with np.errstate(over="ignore"):
            digest.update(step, int(np.array(sums).sum(dtype=np.int64)))
    assert digest.hex == alone.hex


def test_the_digest_goes_on_from_its_hex() -> None:
    whole = DataDigest().update(0, 5).update(1, -6)
    assert DataDigest(DataDigest().update(0, 5).hex).update(1, -6).hex == whole.hex


def test_the_digest_sees_a_swap_a_loss_and_a_repeat() -> None:
    positions, rows = np.arange(4), np.array([10, 11, 12, 13])
    sums = {
        local_sum(positions, rows),
        local_sum(positions, rows[[1, 0, 2, 3]]),
        local_sum(positions[:3], rows[:3]),
        local_sum(positions, np.array([10, 11, 12, 12])),
    }
    assert len(sums) == 4


def test_floor_sums_equal_the_plain_sum() -> None:
    numbers = np.random.default_rng(0).integers(0, 60, size=(300, 4))
    for n, m, a, b in numbers.tolist():
        assert floor_sum(n, m + 1, a, b) == sum((a * i + b) // (m + 1) for i in range(n))
