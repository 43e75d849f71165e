"""Real Ray Train runs whose workers share matrices and rows: together on a node, or not at all."""

import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml
from local_ray import local_ray
from tiny_runs import digests, events, largest_difference, losses, make_work, train_here

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import run_distributed
from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import tiny_job, write_tiny_corpus
from raymodel.train.run import train_on_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def room_for_five() -> Iterator[None]:
    with local_ray(5):
        yield


def test_an_elastic_run_takes_whole_replicas_and_trains_the_same(
    room_for_five: None, dataset: Artifact, tmp_path: Path
) -> None:
    """Of five places four are taken: two replicas of two workers."""
    alone = make_work(dataset, tmp_path / "alone")
    run_distributed(train_here, 1, alone, init=False)
    work = make_work(dataset, tmp_path / "shared", parallel={"zero": 1, "tensor": 2})
    elastic = ClusterSpec.model_validate({"workers": {"min": 2, "max": 6}})
    train_on_ray(work, elastic, Story(StringIO()))
    (attempt,) = events(work, "attempt")
    assert (attempt["workers"], attempt["tensor"]) == (4, 2)
    assert attempt["parameters"] == events(alone, "attempt")[0]["parameters"]
    assert digests(work) == digests(alone)
    assert largest_difference(losses(work), losses(alone)) <= 2e-6


def test_a_replica_across_nodes_ends_the_run_and_names_the_nodes(tmp_path: Path) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    job = tiny_job(tmp_path, duration="4 steps", parallel={"sequence": 2})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    with Nodes() as nodes:
        nodes.add()
        nodes.add()  # of one CPU each
        done = subprocess.run(
            [sys.executable, "-m", "raymodel", "run", str(path), "--address", nodes.address],
            cwd=tmp_path,
            env=nodes.environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the nodes have 1, 1 workers" in done.stderr
    assert "a multiple of 2 workers" in done.stderr
