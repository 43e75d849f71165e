"""Recomputed activations, another kernel, compiled, state in the host's memory: the same curve."""

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import (
    digests,
    largest_difference,
    losses,
    make_dataset,
    make_work,
    records,
    train_all,
    train_until,
)

from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train.work import TrainWork

# As in test_train_loop.py: these change the order in which the same fp32 numbers are added.
TOLERANCE = 2e-6
STEPS = 8  # the rate's schedule is over these; checkpoints at 4 and 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainWork:
    work = run_of(dataset, tmp_path_factory.mktemp("plain") / "run")
    run_distributed(train_all, 1, [work], init=False)
    return work


def run_of(dataset: Artifact, run: Path, **spec: Any) -> TrainWork:
    return make_work(dataset, run, duration=f"{STEPS} steps", **spec)


def assert_same_curve(work: TrainWork, plain: TrainWork) -> None:
    assert digests(work) == digests(plain)
    assert largest_difference(losses(work), losses(plain)) <= TOLERANCE


def spread(zero: int, **parallel: Any) -> dict[str, Any]:
    return {"zero": zero, **parallel}


@pytest.mark.parametrize(
    ("spec", "parallel"),
    [
        ({"activation_checkpointing": True}, spread(3, tensor=2)),
        ({"attention": "eager"}, spread(1)),
    ],
)
def test_memory_is_saved_without_a_trace_in_the_curve(
    dataset: Artifact, tmp_path: Path, plain: TrainWork, spec: Any, parallel: Any
) -> None:
    work = run_of(dataset, tmp_path / "run", parallel=parallel, **spec)
    run_distributed(train_all, 2, [work], init=False)
    assert_same_curve(work, plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [spread(0), spread(1), spread(3), spread(1, tensor=2), spread(3, sequence=2)],
)
def test_activations_are_computed_again_in_every_layout(
    dataset: Artifact, tmp_path: Path, plain: TrainWork, parallel: Any
) -> None:
    work = run_of(dataset, tmp_path / "run", parallel=parallel, activation_checkpointing=True)
    run_distributed(train_all, 2, [work], init=False)
    assert_same_curve(work, plain)


@pytest.mark.slow
@pytest.mark.timeout(900)  # torch's compiler starts a C++ compiler for each graph
@pytest.mark.parametrize(
    "parallel", [spread(0), spread(3), spread(1, tensor=2), spread(1, sequence=2)]
)
def test_a_compiled_model_gives_the_curve(
    dataset: Artifact, tmp_path: Path, plain: TrainWork, parallel: Any
) -> None:
    work = run_of(dataset, tmp_path / "run", parallel=parallel, compile=True)
    run_distributed(train_all, 2, [work], init=False, timeout_s=800)
    assert_same_curve(work, plain)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # DeepSpeed compiles its optimizer at first use on a machine
@pytest.mark.parametrize("zero", [1, 3])
def test_offloaded_state_is_saved_and_loaded_like_any_other(
    dataset: Artifact, tmp_path: Path, plain: TrainWork, zero: int
) -> None:
    """Half with the state in the host's memory, the rest without, and the other way round."""
    for first, second in (("cpu", "none"), ("none", "cpu")):
        run = tmp_path / first
        before = run_of(dataset, run, parallel=spread(zero, offload=first))
        run_distributed(train_until, 2, [before], 6, init=False, timeout_s=1500)
        after = run_of(dataset, run, parallel=spread(zero, offload=second))
        run_distributed(train_all, 2, [after], init=False, timeout_s=1500)
        assert [record["step"] for record in records(after, "metrics") if "loss" in record][-1] == 8
        assert_same_curve(after, plain)


def test_flash_attention_that_is_not_there_is_the_users_error(
    dataset: Artifact, tmp_path: Path
) -> None:
    work = run_of(dataset, tmp_path / "run", attention="flash", precision="bf16")
    with pytest.raises(RankError, match=r"needs an NVIDIA GPU and the package flash-attn .* sdpa"):
        run_distributed(train_all, 1, [work], init=False)
