"""Nodes as local processes: what the autoscaler is told of them, and what is left of them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from raymodel.cluster import local_nodes
from raymodel.cluster.local_nodes import LocalNodes

WORKERS = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}


class Started:
    """The commands and environments of nodes; each is a process that only sleeps."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, command: list[str], env: dict[str, str], **more: Any) -> Any:
        self.commands.append(command)
        self.environments.append(env)
        self.processes.append(self._popen(["sleep", "60"]))
        return self.processes[-1]

    _popen = subprocess.Popen


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    started = Started()
    monkeypatch.setattr(local_nodes.subprocess, "Popen", started)
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


@pytest.fixture
def nodes(started: Started, tmp_path: Path) -> LocalNodes:
    config = {"head_node_id": "head", "gcs_address": "127.0.0.1:1", "folder": str(tmp_path)}
    nodes = LocalNodes(config, "cluster")
    tags = {TAG_RAY_USER_NODE_TYPE: "worker"}
    resources = {"CPU": 2, "object_store_memory": 10**8, "disk": 1}
    nodes.create_node_with_resources_and_labels({}, tags, 2, resources, {})
    return nodes


def test_each_node_has_its_name_its_type_and_a_folder(
    nodes: LocalNodes, started: Started, tmp_path: Path
) -> None:
    names = nodes.non_terminated_nodes(WORKERS)
    assert nodes.non_terminated_nodes({}) == ["head", *names]
    assert [env["RAY_CLOUD_INSTANCE_ID"] for env in started.environments] == names
    assert {env["RAY_NODE_TYPE_NAME"] for env in started.environments} == {"worker"}
    folders = [f"--temp-dir={folder}" for folder in tmp_path.iterdir()]
    assert sorted(word for command in started.commands for word in command if "temp" in word) == (
        sorted(folders)
    )
    for command in started.commands:
        assert {"--num-cpus=2", "--object-store-memory=100000000"} <= set(command)
        assert f"--resources={json.dumps({'disk': 1})}" in command


def test_a_lost_node_is_no_longer_there_and_leaves_nothing(
    nodes: LocalNodes, started: Started, tmp_path: Path
) -> None:
    lost, kept = nodes.non_terminated_nodes(WORKERS)
    started.processes[0].kill()
    started.processes[0].wait()
    assert nodes.non_terminated_nodes(WORKERS) == [kept]
    assert nodes.is_terminated(lost)
    assert nodes.is_running(kept)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_node_is_ended_and_leaves_nothing(
    nodes: LocalNodes, started: Started, tmp_path: Path
) -> None:
    for name in nodes.non_terminated_nodes(WORKERS):
        nodes.terminate_node(name)
    assert all(process.poll() is not None for process in started.processes)
    assert nodes.non_terminated_nodes({}) == ["head"]
    assert not list(tmp_path.iterdir())
