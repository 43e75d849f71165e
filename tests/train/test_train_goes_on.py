"""Pretraining that goes on from a model: its weights, a fresh optimizer, data that it can read."""

from pathlib import Path

import pytest
import torch
from tiny_runs import build_work, losses, make_dataset, train_here, weights_of

from raymodel.data.spec import TokenizerSpec
from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.testing.tiny import TINY_LLAMA
from raymodel.train.spec import PretrainSpec
from raymodel.train.work import TrainWork

TRAINING = {
    "global_batch": 8,
    "precision": "fp32",
    "log_every": "1 step",
    "validate_every": "6 steps",
    "validate_rows": 8,
    "schedule": {"name": "constant"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def first(dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainWork:
    """A training from nothing, with its model."""
    spec = TRAINING | {"model": TINY_LLAMA, "duration": "6 steps"}
    work = build_work(
        PretrainSpec.model_validate(spec), dataset, tmp_path_factory.mktemp("runs") / "first"
    )
    run_distributed(train_here, 1, work, init=False)
    return work


def going_on(first: TrainWork, dataset: Artifact, run: Path, **changes: object) -> TrainWork:
    spec = PretrainSpec.model_validate(
        TRAINING | {"base": str(first.run / "model"), "duration": "3 steps"} | changes
    )
    return build_work(spec, dataset, run, base=first.run / "model")


def test_it_begins_with_the_weights_of_its_base_on_any_number_of_workers(
    first: TrainWork, dataset: Artifact, tmp_path: Path
) -> None:
    still = going_on(first, dataset, tmp_path / "still", optimizer={"learning_rate": 1e-12})
    moves = going_on(first, dataset, tmp_path / "moves", parallel={"zero": 3})
    run_distributed(train_here, 1, still, init=False)
    run_distributed(train_here, 2, moves, init=False)
    before = weights_of(first)
    for name, weight in weights_of(still).items():
        assert torch.allclose(weight, before[name], atol=1e-7), name
    assert any(not torch.equal(w, before[n]) for n, w in weights_of(moves).items())
    assert losses(moves)[0] == pytest.approx(losses(still)[0], rel=1e-5), "the same first step"
    assert losses(still)[0] < losses(first)[0] - 0.1, "what was learnt is there"


def test_rows_that_were_read_otherwise_than_the_base_reads_are_refused(
    first: TrainWork, tmp_path: Path
) -> None:
    other = make_dataset(tmp_path, seed=1, tokenizer=TokenizerSpec(vocab_size=290))
    work = going_on(first, other, tmp_path / "run")
    with pytest.raises(RankError, match=r"pretrain\.base, .*reads with another tokenizer"):
        run_distributed(train_here, 1, work, init=False)
