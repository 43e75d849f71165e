"""A loss or gradient that is NaN or infinite: nothing of it reaches the weights, on any rank."""

import gc
from pathlib import Path

import pytest
import torch
from tiny_engines import Case, engine_of, join_tiny_group, train_steps
from tiny_runs import events, fragments, losses, make_dataset, make_work, records, train_here

from raymodel.storage.artifact import Artifact
from raymodel.tasks import get_task
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train import loop
from raymodel.train.checkpoint.state import committed_steps, find_checkpoint
from raymodel.train.step import zero
from raymodel.train.step.engine import Engine
from raymodel.train.step.nonfinite import MAX_SKIPS_IN_A_ROW
from raymodel.train.work import TrainWork

NAN, INF = float("nan"), float("inf")


class NanGradient(torch.autograd.Function):
    """A loss as it is, whose gradient is not a number."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * NAN


SPOILERS = {
    "nan loss": lambda loss: loss * NAN,
    "infinite loss": lambda loss: loss + INF,  # its gradient is finite
    "nan gradient": NanGradient.apply,
}


# ---- the engine ----------------------------------------------------------------------------------

CASES = [
    Case(zero=stage, precision=precision, micro_batch=3)
    for stage in (0, 1, 2, 3)
    for precision in ("fp32", "bf16")
]


def state_of(engine: Engine) -> dict[str, torch.Tensor]:
    inner = engine.deepspeed
    return {
        f"{part.name}:{key}": view.clone()
        for part in zero.held_slices(inner)
        for key, view in zero.state_tensors(inner, part).items()
    } | {"updates": torch.tensor(zero.updates_done(inner))}


def differences(one: dict, other: dict) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def spoil_a_step(engine: Engine, rank: int, kind: str) -> None:
    """One step whose second micro batch is bad on rank 1 only."""
    sound, calls = engine.task.loss, 0

    def loss(model, batch):
        nonlocal calls
        calls += 1
        value = sound(model, batch)
        return SPOILERS[kind](value) if rank == 1 and calls == 2 else value

    update = engine.update
    engine.task.loss = loss
    engine.update = lambda rate: update(rate, leave_out=kind != "nan gradient")
    try:
        train_steps(engine, range(50, 51))
    finally:
        del engine.task.loss, engine.update


def leave_out_updates(rank: int, world_size: int) -> list[str]:
    join_tiny_group()
    found = []
    for case in CASES:
        with engine_of(case) as engine:
            train_steps(engine, range(2))
            train_steps(engine, range(2, 3))
            unbroken = state_of(engine)
        gc.collect()
        for kind in SPOILERS:
            with engine_of(case) as engine:
                train_steps(engine, range(2))
                before = state_of(engine)
                spoil_a_step(engine, rank, kind)
                found += [f"{case} {kind}: {n}" for n in differences(before, state_of(engine))]
                if not engine.left_out_update:
                    found.append(f"{case} {kind}: not told")
                train_steps(engine, range(2, 3))
                found += [
                    f"{case} {kind}, after: {n}" for n in differences(unbroken, state_of(engine))
                ]
                if engine.left_out_update:
                    found.append(f"{case} {kind}: told of a good step")
    return found


def test_a_bad_step_leaves_weights_and_moments_bit_for_bit_at_every_stage() -> None:
    for found in run_distributed(leave_out_updates, 2, init=False, timeout_s=280):
        assert found == []


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


def train_with_bad_data(
    rank: int, world_size: int, work: TrainWork, bad: set[int], die_at: int | None = None
) -> None:
    """The rows of these data steps give a NaN on rank 1; at `die_at` it fails."""
    check, task = loop._check_rows, get_task("causal_lm")
    sound, is_bad = task.loss, False

    def check_rows(t, rows) -> None:
        nonlocal is_bad
        check(t, rows)
        is_bad = rank == 1 and rows.step in bad
        if rank == 1 and rows.step == die_at:
            raise RuntimeError("died on purpose")

    def loss(self, model, batch):
        value = sound(self, model, batch)
        return value * NAN if is_bad and torch.is_grad_enabled() else value

    loop._check_rows, task.loss = check_rows, loss
    train_here(rank, world_size, work)


def train(work: TrainWork, bad: set[int], die_at: int | None = None) -> None:
    run_distributed(train_with_bad_data, 2, work, bad, die_at, init=False)


def work_of(dataset: Artifact, run: Path, policy: str, **spec: object) -> TrainWork:
    return make_work(dataset, run, fault={"non_finite_loss": policy}, **spec)


def digest(work: TrainWork) -> str:
    return records(work, "metrics")[-1]["data_digest"]


def test_stop_ends_the_run_and_keeps_the_last_good_checkpoint(
    dataset: Artifact, tmp_path: Path
) -> None:
    work = work_of(dataset, tmp_path / "run", "stop")
    with pytest.raises(RankError, match=r"NonFiniteLossError: at step 8 the loss is nan"):
        train(work, {7})  # the step before a checkpoint
    assert committed_steps(work.run) == [4]
    assert all(loss is not None for loss in losses(work))


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_skip_goes_on_with_the_next_batch(dataset: Artifact, tmp_path: Path, stage: int) -> None:
    work = work_of(dataset, tmp_path / "run", "skip", micro_batch=2, parallel={"zero": stage})
    plain = make_work(dataset, tmp_path / "plain", micro_batch=2, parallel={"zero": stage})
    train(work, {5, 7})
    train(plain, set())
    assert [step for step, loss in enumerate(losses(work)) if loss is None] == [5, 7]
    assert losses(work)[:5] == losses(plain)[:5]
    assert losses(work)[6] != losses(plain)[6]  # an update is missing
    assert records(work, "metrics")[-1]["non_finite_steps"] == 2
    assert digest(work) == digest(plain)  # the rows were read
    assert [event["step"] for event in events(work, "skip")] == [6, 8]


def test_skipping_for_ever_is_an_error(dataset: Artifact, tmp_path: Path) -> None:
    steps = MAX_SKIPS_IN_A_ROW + 4
    work = work_of(dataset, tmp_path / "run", "skip", duration=f"{steps} steps")
    with pytest.raises(RankError, match=f"as at the {MAX_SKIPS_IN_A_ROW} steps before"):
        train(work, set(range(2, steps)))


@pytest.fixture(scope="module")
def rewound(dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainWork:
    """The data of step 7 (counted from 1) is bad; the checkpoint before is of step 4."""
    work = work_of(dataset, tmp_path_factory.mktemp("rewound"), "rewind")
    train(work, {6})
    return work


def test_rewind_leaves_out_the_data_since_the_checkpoint(rewound: TrainWork) -> None:
    (event,) = events(rewound, "rewind")
    assert event["step"] == 4
    assert "without the data of steps 5 to 7" in event["message"]
    state = find_checkpoint(rewound.run).state
    assert (state["step"], state["left_out"]) == (12, [[4, 7]])
    assert len(losses(rewound)) == 12
    assert None not in losses(rewound)
    books = events(rewound, "books")[-1]["booked_s"]
    assert books["lost_work"] > 0


def test_rewind_changes_the_digest_and_not_the_steps_before(
    rewound: TrainWork, dataset: Artifact, tmp_path: Path
) -> None:
    plain = make_work(dataset, tmp_path / "plain")
    train(plain, set())
    assert digest(rewound) != digest(plain)
    assert losses(rewound)[:4] == losses(plain)[:4]
    assert losses(rewound)[4:] != losses(plain)[4:]


# Data steps before and after the next checkpoint.
@pytest.mark.parametrize("die_at", [pytest.param(8, marks=pytest.mark.slow), 12])
def test_what_a_rewind_left_out_stays_out_after_a_resume(
    rewound: TrainWork, dataset: Artifact, tmp_path: Path, die_at: int
) -> None:
    work = work_of(dataset, tmp_path / "run", "rewind")
    with pytest.raises(RankError, match="died on purpose"):
        train(work, {6}, die_at)
    train(work, set())  # the data is good now, and left out all the same
    assert digest(work) == digest(rewound)
    assert losses(work) == losses(rewound)
    assert fragments(work, 12) == fragments(rewound, 12)


@pytest.mark.parametrize(
    "stage", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_rewind_before_the_first_update_trains_as_if_the_data_were_not_there(
    dataset: Artifact, tmp_path: Path, stage: int
) -> None:
    options = {"micro_batch": 2, "parallel": {"zero": stage}, "duration": "4 steps"}
    work, again = (work_of(dataset, tmp_path / n, "rewind", **options) for n in ("one", "three"))
    train(work, {2})
    train(again, {0, 1, 2})  # three rewinds to step 0, each without any update before
    assert find_checkpoint(work.run).state["left_out"] == [[0, 3]]
    assert find_checkpoint(again.run).state["left_out"] == [[0, 1], [1, 2], [2, 3]]
    assert losses(work) == losses(again)
    assert fragments(work, 4) == fragments(again, 4)


def test_rewinding_for_ever_is_an_error(dataset: Artifact, tmp_path: Path) -> None:
    work = work_of(dataset, tmp_path / "run", "rewind")
    with pytest.raises(RankError, match="after 5 rewinds"):
        train(work, set(range(100)))
