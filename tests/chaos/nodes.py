"""A Ray of several nodes on one machine, each a raylet of its own that can be lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from raymodel.testing.distributed import free_port

BIN = Path(sys.executable).parent
STORE_BYTES = 80_000_000
DEADLINE_S = 90.0


class Nodes:
    """A head without CPUs, and nodes of one CPU that come and go. Use as a context manager."""

    def __init__(self) -> None:
        # Short: the path of a socket below it has at most 107 characters.
        self._folder = tempfile.mkdtemp(prefix="rm-", dir="/tmp")
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._count = 0
        self.address = f"127.0.0.1:{free_port()}"
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = own | {
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def __enter__(self) -> Nodes:
        port = self.address.rpartition(":")[2]
        self._head = self._start(
            *("--head", f"--port={port}", "--num-cpus=0", "--node-ip-address=127.0.0.1"),
            *("--include-dashboard=false", f"--temp-dir={self._folder}"),
        )
        self._wait_for(1)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in (*self._nodes.values(), self._head):
            process.terminate()  # ends its raylet, workers and agents
        for process in (*self._nodes.values(), self._head):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                _kill_tree(process.pid)
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self) -> str:
        """Adds a node of one CPU, waits until Ray knows it, and returns its name."""
        self._count += 1
        name, alive = f"node-{self._count}", len(self._alive())
        # A resource of its own is how the node is found again among those that Ray lists.
        self._nodes[name] = self._start(
            *(f"--address={self.address}", "--num-cpus=1", "--node-ip-address=127.0.0.1"),
            f"--resources={json.dumps({name: 1})}",
        )
        self._wait_for(alive + 1)
        return name

    def kill(self, name: str) -> None:
        """kill -9 of a raylet and of all that runs on it."""
        process = self._nodes.pop(name)
        _kill_tree(process.pid)
        process.wait(30)

    def drain(self, name: str, deadline_s: int) -> None:
        """Tells Ray that a node is about to be taken away, as a cloud does."""
        (node_id,) = [node for node, resources in self._alive().items() if name in resources]
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

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats"]
        with open(Path(self._folder, "ray.log"), "ab") as log:
            return subprocess.Popen(
                [*command, f"--object-store-memory={STORE_BYTES}", *arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def _alive(self) -> dict[str, list[str]]:
        """Id → resources of each node that the head counts as alive.

        Asked in a process of its own, which joins no Ray.
        """
        code = (
            "import json; from ray._raylet import GcsClient; "
            f"nodes = GcsClient(address={self.address!r}).get_all_node_info().values(); "
            "print(json.dumps({n.node_id.hex(): list(n.resources_total) for n in nodes "
            "if n.state == 0}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,  # the head may not be there yet
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def _wait_for(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while len(self._alive()) < count:
            assert time.monotonic() < deadline, Path(self._folder, "ray.log").read_text()
            time.sleep(0.5)


def _kill_tree(pid: int) -> None:
    process = psutil.Process(pid)
    for each in (*process.children(recursive=True), process):
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
