"""`raymodel run` as a process on a cluster of `Nodes`, and what it has written so far."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from raymodel.observe.records import read_records
from raymodel.storage.uri import Location
from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import tiny_job

DEADLINE_S = 240.0


class Command:
    """`raymodel run` of one job, started again whenever it was ended."""

    def __init__(
        self, folder: Path, name: str, nodes: Nodes, cluster: dict[str, Any], **pretrain: Any
    ) -> None:
        """`pretrain`: fields of that section which differ from the tiny job's."""
        self.nodes, self.folder = nodes, folder
        self.stage = folder / f"runs/{name}/pretrain"
        job = tiny_job(folder, name, **pretrain)
        # Steps of a model as tiny as this wait for the slower of two threads: on a busy machine
        # they took a second each.
        cluster = {"threads_per_worker": 1, **cluster}
        job |= {"storage": str(folder / "runs"), "cluster": cluster}
        self._job = folder / f"{name}.yaml"
        self._job.write_text(yaml.safe_dump(job))
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def output(self) -> str:
        """What all starts of it have printed."""
        return (self.folder / f"{self._job.stem}.txt").read_text()

    def start(self) -> None:
        self._started_at = time.time()
        with open(self.folder / f"{self._job.stem}.txt", "ab") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "raymodel", "run", str(self._job)),
                    *("--address", self.nodes.address),
                ],
                cwd=self.folder,
                env=self.nodes.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, number: int) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def check_done(self) -> None:
        """Waits for the end as long as steps come."""
        while (code := self.process.poll()) is None:
            step = self.last_step()
            try:
                code = self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                assert self.last_step() > step, f"stands still\n{self.output[-4000:]}"
        assert code == 0, self.output[-4000:]

    def kill(self) -> None:
        """For a test that failed half-way: nothing of it stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.kill(self._process.pid, signal.SIGKILL)

    @property
    def run(self) -> Location:
        (folder,) = [path for path in self.stage.glob("*") if path.is_dir()]
        return Location.parse(str(folder))

    def records(self, name: str) -> list[dict[str, Any]]:
        if not self.stage.is_dir() or not any(path.is_dir() for path in self.stage.glob("*")):
            return []
        return read_records(self.run / f"{name}.jsonl")

    def losses(self) -> list[tuple[int, float]]:
        return [(r["step"], r["loss"]) for r in self.records("metrics") if "loss" in r]

    def last_step(self) -> int:
        return int(self._last_record().get("step", 0))

    def wait_for_step(self, step: int) -> None:
        """Until it is done, and the process that was started last has made a step."""
        deadline = time.monotonic() + DEADLINE_S
        while (last := self._last_record()).get("step", 0) < step or (
            last["time_s"] < self._started_at
        ):
            assert self.process.poll() is None, self.output[-4000:]
            assert time.monotonic() < deadline, f"step {step} did not come: {last}"
            time.sleep(0.1)

    def _last_record(self) -> dict[str, Any]:
        """Of the metrics; reading all of them ten times a second would take a core."""
        files = list(self.stage.glob("*/metrics.jsonl"))
        if not files:
            return {}
        with open(files[0], "rb") as stream:
            stream.seek(max(0, files[0].stat().st_size - 8192))
            lines = stream.read().splitlines(keepends=True)[1:]
        whole = [line for line in lines if line.endswith(b"\n")]
        return json.loads(whole[-1]) if whole else {}
