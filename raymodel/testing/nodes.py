"""A Ray of several nodes on one machine, each a raylet of its own that can be lost.

Every node has a temporary folder and ports of its own, and all of them ask for a token.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from raymodel.testing.distributed import free_port

BIN = Path(sys.executable).parent
STORE_BYTES = 80_000_000
DEADLINE_S = 90.0


# What is in a cluster that Ray did not make for itself.
LEFT = """\
import json, sys, ray
from ray._private.state import state
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
own = {"_AutoscalingCoordinatorActor", "_StatsActor", "_UsageCollectionActor"}
actors = [a["ActorClassName"] for a in state.actor_table(None).values() if a["State"] != "DEAD"]
groups = [g["state"] for g in ray.util.placement_group_table().values()]
print(json.dumps({
    "actors": [name for name in actors if name not in own],
    "groups": [state for state in groups if state != "REMOVED"],
    "free_cpus": ray.available_resources().get("CPU", 0),
}))
"""


def left_in(address: str, environment: dict[str, str]) -> dict[str, Any]:
    """Actors and placement groups of a cluster, by class and state, and its free CPUs.

    Args:
        environment: with the token that the cluster asks for.
    """
    done = subprocess.run(
        [sys.executable, "-c", LEFT, address],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that the head counts as alive."""

    id: str
    type: str
    """Its node type, when an autoscaler started it; else empty."""
    resources: dict[str, float]


class Nodes:
    """A head without CPUs, and nodes that come and go. Use as a context manager."""

    def __init__(self, *, dashboard: bool = False, autoscaling: Path | None = None) -> None:
        """Args:
        dashboard: start the dashboard, which the job API needs.
        autoscaling: a file such as `cluster/local-autoscaling.yaml`; its autoscaler then starts
            and ends the nodes, within seconds.
        """
        # Short: the path of a socket below it has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="rm-", dir="/tmp"))
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._count = 0
        self.address = f"127.0.0.1:{free_port()}"
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = own | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "OMP_NUM_THREADS": "1",
            # Unless told so, a node of one CPU keeps a single worker process: with that one taken,
            # each block of data would be read by a process that starts for it, at 2 s of CPU.
            "RAY_num_workers_soft_limit": "4",
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self._arguments = [
            *("--head", f"--port={self.address.rpartition(':')[2]}", "--num-cpus=0"),
            f"--ray-client-server-port={free_port()}",
        ]
        self.dashboard = ""
        """Its URL, when there is one."""
        if dashboard:
            port = free_port()
            self.dashboard = f"http://127.0.0.1:{port}"
            self._arguments += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
        else:
            self._arguments += ["--include-dashboard=false"]
        self._head_environment: dict[str, str] = {}
        if autoscaling:
            self._autoscale(autoscaling)

    def __enter__(self) -> Nodes:
        self._head = self._start("head", self._arguments, self._head_environment)
        try:
            self.wait_until(lambda nodes: len(nodes) >= 1, "the head")
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        processes = [*self._nodes.values(), self._head]
        trees = [each for process in processes for each in _tree(process.pid)]
        for process in processes:
            process.terminate()  # ends its raylet, workers and agents
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                continue
        _kill(trees)  # what was left, such as nodes that an autoscaler had started
        for process in processes:
            process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def submit(self, job: Path, *arguments: str) -> subprocess.Popen[str]:
        """Starts `raymodel submit` of a job file, from its folder."""
        address = ("--address", self.dashboard)
        return self.raymodel("submit", job.name, *address, *arguments, cwd=job.parent)

    def add(self, num_cpus: int = 1) -> str:
        """Adds a node, waits until Ray knows it, and returns its name."""
        self._count += 1
        name = f"node-{self._count}"
        # A resource of its own is how the node is found again among those that Ray lists.
        arguments = [
            *(f"--address={self.address}", f"--num-cpus={num_cpus}"),
            f"--resources={json.dumps({name: 1})}",
        ]
        self._nodes[name] = self._start(name, arguments)
        self.wait_until(lambda nodes: any(name in node.resources for node in nodes), name)
        return name

    def kill(self, name: str) -> None:
        """kill -9 of a node that was added, and of all that runs on it."""
        process = self._nodes.pop(name)
        _kill(_tree(process.pid))
        process.wait(30)

    def kill_by_id(self, node_id: str) -> None:
        """kill -9 of a node that the autoscaler started, and of all that runs on it."""
        raylets = [each for each in _tree(self._head.pid) if _is_raylet(each, node_id)]
        assert len(raylets) == 1, f"{len(raylets)} raylets of {node_id} below the head"
        _kill(_tree(raylets[0].pid))

    def drain(self, name: str, deadline_s: int) -> None:
        """Tells Ray that a node is about to be taken away, as a cloud does."""
        (node_id,) = [node.id for node in self.alive() if name in node.resources]
        subprocess.run(
            [
                *(str(BIN / "ray"), "drain-node", "--address", self.address),
                *("--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
                *("--reason-message", "the test takes it away"),
                *("--deadline-remaining-seconds", str(deadline_s)),
            ],
            env=self.environment,
            check=True,
            capture_output=True,
        )

    @property
    def names(self) -> list[str]:
        return list(self._nodes)

    def alive(self) -> list[Node]:
        """What the head counts as alive; asked in a process of its own, which joins no Ray."""
        code = (
            "import json; from ray._raylet import GcsClient; "
            f"nodes = GcsClient(address={self.address!r}).get_all_node_info().values(); "
            "print(json.dumps([dict(id=n.node_id.hex(), type=n.node_type_name, "
            "resources=dict(n.resources_total)) for n in nodes if n.state == 0]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,  # the head may not be there yet
        )
        return [Node(**node) for node in json.loads(done.stdout)] if done.returncode == 0 else []

    def wait_until(
        self, condition: Callable[[list[Node]], bool], what: str, limit_s: float = DEADLINE_S
    ) -> list[Node]:
        """Waits until the nodes that are alive meet a condition, and returns them."""
        deadline = time.monotonic() + limit_s
        while not condition(nodes := self.alive()):
            log = (self.folder / "ray.log").read_text()
            assert time.monotonic() < deadline, f"waited for {what}; {nodes}\n{log}"
            time.sleep(0.5)
        return nodes

    def raymodel(self, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        """Starts the command as a user of this cluster; its output is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "raymodel", *arguments],
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _start(
        self, name: str, arguments: Sequence[str], environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        command = [
            *(str(BIN / "ray"), "start", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--temp-dir={self.folder / name}"),
            f"--object-store-memory={STORE_BYTES}",
            f"--dashboard-agent-listen-port={free_port()}",
        ]
        with open(self.folder / "ray.log", "ab") as log:
            return subprocess.Popen(
                [*command, *arguments],
                env=self.environment | (environment or {}),
                stdout=log,
                stderr=log,
            )

    def _autoscale(self, file: Path) -> None:
        """As `cluster/README.md` says, at this head's address."""
        config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        config["provider"] |= {"gcs_address": self.address, "folder": str(self.folder)}
        own = self.folder / "autoscaling.yaml"
        own.write_text(yaml.safe_dump(config), encoding="utf-8")
        self._arguments.append(f"--autoscaling-config={own}")
        self._head_environment = {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": config["provider"]["head_node_id"],
            "RAY_NODE_TYPE_NAME": config["head_node_type"],
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }


def _is_raylet(process: psutil.Process, node_id: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return bool(words) and words[0].endswith("/raylet") and any(node_id in word for word in words)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
