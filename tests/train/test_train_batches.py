"""From a worker's rows to its micro batches, and what all workers agree on."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from raymodel.data.feed import StepRows
from raymodel.data.order import DataDigest, local_sum, slice_for
from raymodel.data.rows import row_tokens
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.train.layout import Layout
from raymodel.train.plan import plan_batch
from raymodel.train.step.batches import Collator, agree

TOKENS = 8
CPU = torch.device("cpu")


def rows_of(row_ids, positions=None, skipped=0) -> StepRows:
    """Packed rows; row n is the token n, of which n % TOKENS + 1 are real."""
    ids = np.asarray(row_ids, dtype=np.int64)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, TOKENS)), TOKENS)
    table = pa.table({"tokens": tokens, "length": pa.array(ids % TOKENS + 1)})
    places = np.arange(len(ids)) if positions is None else np.asarray(positions)
    return StepRows(step=0, positions=places, row_ids=ids, table=table, skipped=skipped)


def collator(accumulation: int) -> Collator:
    return Collator(get_task("causal_lm")(), accumulation, seed=7)


def test_rows_are_cut_into_as_many_micro_batches_as_the_plan_says():
    batch = collator(3).step_batch(rows_of([0, 1, 2, 3, 4, 5, 6]))
    first_tokens = [micro["input_ids"][:, 0].tolist() for micro in batch.micro_batches]
    assert first_tokens == [[0, 1, 2], [3, 4], [5, 6]]
    assert (batch.rows, batch.bad_rows) == (7, 0)
    assert batch.tokens == 1 + 2 + 3 + 4 + 5 + 6 + 7
    assert batch.targets == batch.tokens - 7, "the first token of a row is not predicted"


def test_a_worker_with_fewer_rows_than_pieces_gets_blank_micro_batches():
    batch = collator(3).step_batch(rows_of([5, 6]))
    *real, blank = batch.micro_batches
    assert [micro["input_ids"].shape for micro in real] == [(1, TOKENS)] * 2
    assert (blank["labels"] == -100).all(), "it bears no loss"
    assert batch.targets == 5 + 6


def test_a_blank_does_not_change_with_the_batch_it_was_made_of():
    pieces = collator(2)
    first = pieces.step_batch(rows_of([5])).micro_batches
    assert first[0]["labels"].max() == 5, "the real one keeps its labels"
    assert pieces.step_batch(rows_of([6])).micro_batches[1]["labels"].max() == -100


def test_a_step_whose_rows_are_all_corrupt_is_blank_and_counted():
    pieces = collator(2)
    pieces.learn_blank({"tokens": np.zeros((1, TOKENS)), "length": np.array([TOKENS])})
    nothing = StepRows(0, np.array([], int), np.array([], int), pa.table({}), skipped=4)
    batch = pieces.step_batch(nothing)
    assert [(m["labels"] == -100).all().item() for m in batch.micro_batches] == [True, True]
    assert (batch.targets, batch.tokens, batch.rows, batch.bad_rows) == (0, 0, 0, 4)


def test_held_out_rows_are_cut_like_those_of_a_step():
    columns = {"tokens": np.arange(3 * TOKENS).reshape(3, TOKENS), "length": np.full(3, TOKENS)}
    assert [len(batch["labels"]) for batch in collator(1).batches(columns, 2)] == [2, 1]


@pytest.mark.parametrize(
    "columns",
    [
        {"length": [3, 4], "tokens": [[0] * 5] * 2},
        {"input_ids": [[1, 2, 3], [4, 5, 6, 7]], "label": [0, 1]},
        {"image": [b"0"] * 7, "label": [0] * 7},
    ],
)
def test_tokens_are_counted_without_padding_and_images_as_one(columns):
    assert row_tokens(pa.table(columns)).sum() == 7
    assert row_tokens(pa.table({})).sum() == 0


class Chancy:
    """A task whose batches are chance alone."""

    no_target = -100

    def collate(self, rows, draw=None):
        count = len(rows["length"])
        if draw is None:
            return {"labels": torch.zeros(count, 4)}
        return {
            "labels": torch.from_numpy(np.stack([draw.of_row(i).uniform(4) for i in range(count)]))
        }

    def num_positions(self, batch):
        return batch["labels"].numel()

    def num_targets(self, batch):
        return len(batch["labels"])


def test_the_chance_of_a_row_does_not_know_the_worker_nor_the_micro_batch():
    row_ids = np.arange(7)
    seen = []
    for world_size, accumulation in ((1, 1), (1, 3), (2, 2), (3, 1)):
        drawn = []
        for rank in range(world_size):
            start, stop = slice_for(rank, world_size, 7)
            rows = rows_of(row_ids[start:stop], np.arange(start, stop))
            batch = Collator(Chancy(), accumulation, seed=7).step_batch(rows)
            drawn += [micro["labels"] for micro in batch.micro_batches]
        seen.append(torch.cat(drawn))
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    later = Collator(Chancy(), 1, seed=7).step_batch(replace(rows_of(row_ids), step=1))
    assert not torch.equal(later.micro_batches[0]["labels"], seen[0])


def agree_on_a_step(rank, world_size, row_ids):
    """Seven rows among the workers: the sums, the targets, and the digest."""
    start, stop = slice_for(rank, world_size, len(row_ids))
    pieces = collator(plan_batch(len(row_ids), 2, world_size).accumulation)
    mine = rows_of(row_ids[start:stop], np.arange(start, stop))
    layout = Layout(rank, world_size)
    step = agree(pieces.step_batch(mine), layout, leave=rank == 1, device=CPU)
    sums = step.read()
    digest = DataDigest().update(0, sums["digest_term"]).hex
    mean = step.mean(torch.tensor(float(rank + 1)))
    return sums, float(step.targets), digest, mean


def test_any_number_of_workers_agrees_on_the_same_sums_and_digest():
    row_ids = np.array([3, 9, 27, 81, 12, 36, 15])
    expected = local_sum(np.arange(7), row_ids)
    for world_size in (1, 3):
        ranks = run_distributed(agree_on_a_step, world_size, row_ids)
        tokens = int((row_ids % TOKENS + 1).sum())
        for sums, targets, digest, mean in ranks:
            assert (sums["rows"], sums["tokens"], sums["targets"]) == (7, tokens, tokens - 7)
            assert targets == tokens - 7
            assert sums["leave"] == (1 if world_size > 1 else 0)
            assert digest == DataDigest().update(0, expected).hex
            # Sums of 64-bit hashes wrap; they are equal modulo 2^64.
            assert (sums["digest_term"] - expected) % 2**64 == 0
            assert mean == pytest.approx(sum(range(1, world_size + 1)) / (tokens - 7))


def agree_on_shared_rows(rank, world_size, row_ids, wrong_rank):
    """Two workers to a replica; one may have been fed other rows than its neighbour."""
    layout = Layout(rank, world_size, tensor=2)
    start, stop = slice_for(layout.data_rank, layout.data_world_size, len(row_ids))
    mine = row_ids[start:stop] + (rank == wrong_rank)
    pieces = collator(1)
    step = agree(
        pieces.step_batch(rows_of(mine, np.arange(start, stop))), layout, leave=False, device=CPU
    )
    try:
        return step.read()
    except AssertionError as error:
        return str(error)


def test_workers_that_share_rows_count_them_once():
    row_ids = np.array([3, 9, 27, 81])
    expected = local_sum(np.arange(4), row_ids)
    for sums in run_distributed(agree_on_shared_rows, 4, row_ids, None):
        assert sums["rows"] == 4
        assert sums["tokens"] == int((row_ids % TOKENS + 1).sum())
        assert (sums["digest_term"] - expected) % 2**64 == 0


@pytest.mark.parametrize("wrong_rank", [0, 3])
def test_a_replica_that_was_fed_different_rows_is_seen(wrong_rank):
    row_ids = np.array([3, 9, 27, 81])
    for message in run_distributed(agree_on_shared_rows, 4, row_ids, wrong_rank):
        assert "different rows" in message
