"""A loss over all rows of a step is the same however the rows are cut up among workers."""

from __future__ import annotations

import gc
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from tiny_engines import join_tiny_group
from torch import nn

from raymodel.data.columns import columns_of
from raymodel.errors import SpecError
from raymodel.modality.embedding import EmbeddingProcessor
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.spec import ModelSpec
from raymodel.tasks import get_task
from raymodel.tasks.base import Task
from raymodel.tasks.gather import gather_rows
from raymodel.tasks.spec.retrieval import EmbeddingSpec
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import train_tiny_tokenizer
from raymodel.train.plan import plan_batch
from raymodel.train.spec import PretrainSpec
from raymodel.train.step.batches import Collator
from raymodel.train.step.engine import build_engine

ROWS, STEPS = 7, 4
CUTS = {1: [(0, 7)], 2: [(0, 5), (5, 7)], 3: [(0, 5), (5, 7), (7, 7)]}
"""By number of workers; the last of three has no row."""
# Several workers add up the same fp32 numbers in another order, at each of a few updates.
CURVE_TOLERANCE = 2e-5
# By which it would be off at least if workers saw their own rows alone.
CONTROL = 1e-2


# ---- the collective ------------------------------------------------------------------------------


def gather_here(rank: int, world_size: int) -> tuple[Any, ...]:
    start, stop = CUTS[world_size][rank]
    rows = torch.arange(14.0).view(7, 2)[start:stop].requires_grad_()
    found = gather_rows(rows)
    # Each worker's loss weighs all rows by its rank: what reaches a row is the sum of the weights.
    (found.rows.square().sum() * (rank + 1)).backward()
    return found.rows.detach(), found.start, rows.grad


@pytest.mark.parametrize("world_size", [2, 3])
def test_rows_of_all_workers_come_in_order_and_gradients_go_back_added_up(world_size: int) -> None:
    whole = torch.arange(14.0).view(7, 2)
    ranks = run_distributed(gather_here, world_size)
    weight = sum(range(1, world_size + 1))
    for (rows, start, grad), (first, last) in zip(ranks, CUTS[world_size], strict=True):
        assert torch.equal(rows, whole)
        assert start == first
        torch.testing.assert_close(grad, 2 * weight * whole[first:last])


# ---- the engine ----------------------------------------------------------------------------------


def make_task() -> Task:
    processor = EmbeddingProcessor(train_tiny_tokenizer(["read the file", "sort rows"]))
    return get_task("embedding")(EmbeddingSpec(temperature=0.2), processor=processor)


def make_model(task: Task) -> nn.Module:
    config = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    model = build_model(
        ModelSpec(architecture="bert", config=config), task, task.processor.model_fields(32)
    )
    return materialise(model, InitialWeights(model, 2), torch.float32)


def rows_of(task: Task, step: int) -> dict[str, Any]:
    """The number of negatives differs by row; a query and a document stand there twice."""
    rows = []
    for index in range(ROWS):
        number = step * 10 + index % 6
        values = {"query": f"find {number} rows", "positive": f"{number * 7} rows are here"}
        negatives = [f"no {number} {extra}" for extra in range(index % 3)]
        rows.append(task.features(values | {"negatives": negatives}, 32).features)
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


def own_batch(task: Task, step: int, rank: int, world_size: int) -> tuple[dict[str, Any], bool]:
    """A worker's part of a step, and whether it is blank, as the collator makes it."""
    rows, (start, stop) = rows_of(task, step), CUTS[world_size][rank]
    collator = Collator(task, 1, seed=0)
    collator.learn_blank(rows)
    [batch] = collator.batches({name: column[start:stop] for name, column in rows.items()}, 1)
    return batch, start == stop


def spec_of(stage: int, precision: str = "fp32", **fields: Any) -> PretrainSpec:
    return PretrainSpec.model_validate(
        {
            "model": {"preset": "llama-tiny"},  # not built: the test brings its own module
            "global_batch": ROWS,
            "duration": "100 steps",
            "precision": precision,
            "optimizer": {"name": "sgd", "learning_rate": 0.3, "weight_decay": 0.0},
            "parallel": {"zero": stage},
            **fields,
        }
    )


def train_cases(rank: int, world_size: int, cases: list[tuple[int, str]]) -> dict[Any, Any]:
    """Case → the global mean loss of each step, the norm of each gradient, and a held-out loss."""
    join_tiny_group()
    done = {}
    for stage, precision in cases:
        task = make_task()
        spec = spec_of(stage, precision)
        batch = plan_batch(ROWS, None, world_size)
        engine = build_engine(make_model(task), task, spec, batch)
        losses, norms = [], []
        for step in range(STEPS):
            own, is_blank = own_batch(task, step, rank, world_size)
            targets = torch.tensor(float(ROWS))
            total = engine.forward_backward(own, targets, is_blank=is_blank).double()
            engine.update(0.3)
            norms.append(engine.grad_norm())
            dist.all_reduce(total)
            losses.append(float(total) / ROWS)
        held_out = engine.forward(own_batch(task, 99, rank, world_size)[0]).double()
        dist.all_reduce(held_out)
        done[stage, precision] = losses, norms, float(held_out) / ROWS
        engine.close()
        del engine
        gc.collect()
    return done


CASES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (2, "bf16"), (3, "fp32")]


@pytest.fixture(scope="module")
def alone() -> dict[Any, Any]:
    found: dict[Any, Any] = run_distributed(train_cases, 1, CASES, init=False)[0]
    return found


def test_the_engine_trains_what_plain_torch_trains(alone: dict[Any, Any]) -> None:
    task = make_task()
    model = make_model(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    losses, norms = [], []
    for step in range(STEPS):
        loss = task.loss(model, own_batch(task, step, 0, 1)[0]) / ROWS
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        losses.append(loss.item())
    mine, my_norms, _ = alone[1, "fp32"]
    assert mine == pytest.approx(losses, rel=CURVE_TOLERANCE)
    assert my_norms == pytest.approx(norms, rel=1e-3)


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_stage_at_every_number_of_workers_gives_one_curve(
    alone: dict[Any, Any], world_size: int
) -> None:
    ranks = run_distributed(train_cases, world_size, CASES, init=False)
    losses, norms, held_out = alone[1, "fp32"]
    assert max(losses) - min(losses) > CONTROL
    for case in CASES:
        tolerance = CURVE_TOLERANCE if case[1] == "fp32" else 2**-6
        for rank in ranks:
            assert rank[case][0] == pytest.approx(losses, rel=tolerance), case
            assert rank[case][2] == pytest.approx(held_out, rel=tolerance), case
            if case[1] == "fp32" and case[0] > 0:  # DeepSpeed tells none at stage 0
                assert rank[case][1] == pytest.approx(norms, rel=1e-3), case


def test_rows_that_saw_only_those_of_their_worker_would_show() -> None:
    task = make_task()
    model = make_model(task).eval()
    whole = float(task.loss(model, own_batch(task, 0, 0, 1)[0]).detach())
    parts = [float(task.loss(model, own_batch(task, 0, r, 2)[0]).detach()) for r in (0, 1)]
    assert abs(sum(parts) - whole) > CONTROL * whole


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"micro_batch": 2}, r"embedding holds each row.* 2 passes.*use 4 workers or more"),
        ({"parallel": {"tensor": 2}}, r"embedding holds each row.* parallel.tensor is 2, .*leave"),
    ],
)
def test_a_step_that_is_cut_otherwise_is_refused(fields: dict[str, Any], message: str) -> None:
    task, spec = make_task(), spec_of(1, **fields)
    with pytest.raises(SpecError, match=message):
        build_engine(make_model(task), task, spec, plan_batch(ROWS, spec.micro_batch, 2))
