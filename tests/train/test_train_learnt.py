"""A model that is no better than one answer to everything is told as such."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import events, make_dataset, make_work, train_all

from raymodel.data.columns import columns_of
from raymodel.data.shard import open_dataset
from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import run_distributed
from raymodel.train.work import TrainWork


def entropy_of_ids(dataset: Artifact) -> float:
    """Of all ids of the held-out rows."""
    rows = open_dataset(dataset, "holdout")
    ids = columns_of(rows.read(rows.spread(rows.num_rows)))["tokens"]
    shares = np.unique(ids, return_counts=True)[1] / ids.size
    return float(-(shares * np.log(shares)).sum())


def trained(dataset: Artifact, run: Path, rate: float, workers: int) -> TrainWork:
    fields = {
        "optimizer": {"learning_rate": rate},
        "duration": "60 steps",
        "checkpoint": {"every": "60 steps"},
        "validate_rows": 10_000,
    }
    work = replace(make_work(dataset, run, **fields), export=True)
    run_distributed(train_all, workers, [work], init=False)
    return work


def test_a_rate_that_teaches_nothing_is_told_at_any_number_of_workers(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    told = []
    for workers in (1, 2):
        work = trained(dataset, tmp_path / f"on_{workers}", rate=1e-7, workers=workers)
        told += events(work, "nothing_learnt")
    assert [each["level"] for each in told] == ["warning"] * 2
    assert told[0]["loss_of_frequencies"] == told[1]["loss_of_frequencies"]
    # The rows are 16 ids long, and the first of each is no target.
    assert told[0]["loss_of_frequencies"] == pytest.approx(entropy_of_ids(dataset), rel=0.02)
    assert f"{told[0]['validation_loss']:.4g}" in told[0]["message"]


def test_nothing_is_told_of_a_model_that_learns(tmp_path: Path) -> None:
    work = trained(make_dataset(tmp_path / "data"), tmp_path / "run", rate=1e-2, workers=1)
    assert events(work, "nothing_learnt") == []
