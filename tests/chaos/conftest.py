"""A Ray of its own for real Ray Train runs that something breaks."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"  # a Ray of these tests alone; set before ray is imported

import pytest
from local_ray import local_ray
from tiny_runs import make_dataset, make_work, train_here

from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import run_distributed
from raymodel.train.work import TrainWork


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray(4):
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def work(dataset: Artifact, tmp_path: Path) -> TrainWork:
    """Sixty steps, of which a process trains some ten in a second."""
    return work_in(dataset, tmp_path / "broken")


@pytest.fixture(scope="module")
def whole(dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainWork:
    """The same run, unbroken, without Ray."""
    work = work_in(dataset, tmp_path_factory.mktemp("whole"))
    run_distributed(train_here, 2, work, init=False)
    return work


def work_in(dataset: Artifact, run: Path) -> TrainWork:
    return make_work(
        dataset,
        run,
        duration="60 steps",
        checkpoint={"every": "10 steps"},
        validate_every="60 steps",
        fault={"hang_after": "20s"},
    )
