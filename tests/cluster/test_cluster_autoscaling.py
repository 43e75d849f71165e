"""Ray's real autoscaler on this machine: nodes come for a job, are replaced, and go."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_files import CLUSTER

from raymodel.testing.nodes import Node, Nodes
from raymodel.testing.tiny import tiny_job, write_tiny_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 800
NODES_S = 300.0
ELASTIC = {"workers": {"min": 1, "max": 2}}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes(dashboard=True, autoscaling=CLUSTER / "local-autoscaling.yaml") as nodes:
        yield nodes


def workers(nodes: list[Node]) -> set[str]:
    return {node.id for node in nodes if node.type == "worker"}


def make_job(folder: Path, name: str, cluster: dict[str, Any]) -> dict[str, Any]:
    job = tiny_job(folder, name, duration=f"{STEPS} steps", checkpoint={"every": "20 steps"})
    return job | {"cluster": cluster, "storage": str(folder / "runs")}


def prepare_elsewhere(nodes: Nodes, folder: Path, name: str) -> None:
    """So that the workers are the first in the cluster to use Ray Data; else the driver is."""
    job = make_job(folder, name, {})
    del job["pretrain"]
    file = folder / "prepare.yaml"
    file.write_text(yaml.safe_dump(job))
    process = nodes.raymodel("run", file.name, cwd=folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output


class Submitted:
    """A job that was submitted and is followed."""

    def __init__(self, nodes: Nodes, folder: Path, name: str, cluster: dict[str, Any]) -> None:
        job = make_job(folder, name, cluster)
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(job))
        self._nodes = nodes
        self.stage = folder / "runs" / name / "pretrain"
        self.process = nodes.submit(file)
        self.output: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.output += self.process.stdout

    def records(self, name: str) -> list[dict[str, Any]]:
        files = list(self.stage.glob(f"*/{name}.jsonl"))
        lines = files[0].read_text().splitlines(keepends=True) if files else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for_step(self, step: int, limit_s: float = 300) -> None:
        deadline = time.monotonic() + limit_s
        while max((record["step"] for record in self.records("metrics")), default=0) < step:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def wait_for_nodes(self, condition: Callable[[list[Node]], bool], what: str) -> set[str]:
        """The workers' nodes, once they meet a condition; the job must go on meanwhile."""

        def is_met(alive: list[Node]) -> bool:
            assert self.process.poll() is None, self.output
            return condition(alive)

        try:
            return workers(self._nodes.wait_until(is_met, what, NODES_S))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{''.join(self.output)}") from None

    def wait(self, limit_s: float = 600) -> None:
        try:
            assert self.process.wait(limit_s) == 0, self.output
        except subprocess.TimeoutExpired:
            raise AssertionError(self.output) from None


def test_nodes_come_for_a_job_are_replaced_when_lost_and_go_when_idle(
    tmp_path: Path, nodes: Nodes
) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    assert workers(nodes.alive()) == set()
    prepare_elsewhere(nodes, tmp_path, "broken")

    broken = Submitted(nodes, tmp_path, "broken", ELASTIC)
    first = broken.wait_for_nodes(lambda alive: len(workers(alive)) == 2, "two nodes")
    broken.wait_for_step(40)
    lost = sorted(first)[0]
    nodes.kill_by_id(lost)
    replaced = broken.wait_for_nodes(
        lambda alive: len(workers(alive)) == 2 and lost not in workers(alive), "a new node"
    )
    assert replaced - first, "a node that was not there before"
    broken.wait()

    whole = Submitted(nodes, tmp_path, "whole", ELASTIC)
    whole.wait()
    ends = [job.records("metrics")[-1] for job in (broken, whole)]
    assert ends[0]["step"] == ends[1]["step"] == STEPS
    assert ends[0]["data_digest"] == ends[1]["data_digest"]
    assert ends[0]["rows"] == ends[1]["rows"]
    nodes.wait_until(lambda alive: not workers(alive), "the nodes to go", NODES_S)
