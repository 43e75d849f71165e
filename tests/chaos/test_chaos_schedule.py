"""A seeded schedule of faults against a job on several nodes: it ends as if nothing had been.

`RAYMODEL_CHAOS_FAULTS=50 pytest -m slow tests/chaos/test_chaos_schedule.py` runs a long one;
`RAYMODEL_CHAOS_SEED` chooses another.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymodel.observe.records import read_records
from raymodel.storage.uri import Location
from raymodel.testing.nodes import Nodes
from raymodel.testing.tiny import TINY_BATCH, tiny_job, write_tiny_corpus
from raymodel.train.checkpoint import checkpoint_location, committed_steps
from raymodel.train.work import read_ledger

FAULTS = int(os.environ.get("RAYMODEL_CHAOS_FAULTS", "7"))
SEED = int(os.environ.get("RAYMODEL_CHAOS_SEED", "1"))
STEPS_BETWEEN = 30
DEADLINE_S = 240.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 90 * FAULTS)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
        for _ in range(3):  # one to spare
            nodes.add()
        yield nodes


class Command:
    """`raymodel run` of one job, started again whenever it was ended."""

    def __init__(self, folder: Path, name: str, nodes: Nodes, steps: int) -> None:
        self.nodes, self.folder = nodes, folder
        self.stage = folder / f"runs/{name}/pretrain"
        job = tiny_job(
            folder,
            name,
            duration=f"{steps} steps",
            checkpoint={"every": "10 steps"},
            fault={"retries": 4 * FAULTS + 1, "hang_after": "30s"},
        )
        job["storage"] = str(folder / "runs")
        self._job = folder / f"{name}.yaml"
        self._job.write_text(yaml.safe_dump(job))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "raymodel", "run", str(self._job)]
        with open(self.folder / "output.txt", "ab") as output:
            self.process = subprocess.Popen(
                [*command, "--address", self.nodes.address],
                cwd=self.folder,
                env=self.nodes.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

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

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while max((step for step, _ in self.losses()), default=0) < step:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "output.txt").read_text()[-4000:]
            assert time.monotonic() < deadline, f"step {step} did not come"
            time.sleep(0.05)


# ---- faults --------------------------------------------------------------------------------------


def kill_worker(command: Command, draw: random.Random) -> None:
    attempt = [event for event in command.records("events") if event["event"] == "attempt"][-1]
    os.kill(draw.choice(attempt["pids"]), signal.SIGKILL)


def lose_node(command: Command, draw: random.Random) -> None:
    command.nodes.kill(draw.choice(command.nodes.names))
    command.nodes.add()


def take_node_away_with_notice(command: Command, draw: random.Random) -> None:
    name = draw.choice(command.nodes.names)
    command.nodes.add()
    command.nodes.drain(name, 20)
    time.sleep(20)
    command.nodes.kill(name)


def interrupt_command(command: Command, draw: random.Random) -> None:
    assert command.end(signal.SIGTERM) in (0, 130)
    command.start()


def kill_command(command: Command, draw: random.Random) -> None:
    command.end(signal.SIGKILL)
    command.start()


def cut_newest_checkpoint(command: Command, draw: random.Random) -> None:
    """And a worker dies, so that it would be needed."""
    folder = checkpoint_location(command.run, committed_steps(command.run)[-1]).local_path
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    os.truncate(path, path.stat().st_size // 2)
    kill_worker(command, draw)


def flip_a_byte_of_the_newest_checkpoint(command: Command, draw: random.Random) -> None:
    folder = checkpoint_location(command.run, committed_steps(command.run)[-1]).local_path
    path = draw.choice(sorted(folder.glob("*.safetensors")))
    at = draw.randrange(path.stat().st_size // 2, path.stat().st_size)
    with open(path, "r+b") as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 0x40]))
    kill_worker(command, draw)


KINDS: tuple[Callable[[Command, random.Random], None], ...] = (
    kill_worker,
    lose_node,
    take_node_away_with_notice,
    interrupt_command,
    kill_command,
    cut_newest_checkpoint,
    flip_a_byte_of_the_newest_checkpoint,
)


def schedule(seed: int, count: int) -> list[tuple[int, Callable[[Command, random.Random], None]]]:
    """(step, fault) in order; each kind once before any comes again."""
    draw = random.Random(seed)
    kinds: list[Any] = []
    while len(kinds) < count:
        kinds += draw.sample(KINDS, len(KINDS))
    steps = [(i + 1) * STEPS_BETWEEN + draw.randrange(STEPS_BETWEEN // 2) for i in range(count)]
    return list(zip(steps, kinds[:count], strict=True))


def test_no_fault_changes_what_comes_out(tmp_path: Path, nodes: Nodes) -> None:
    write_tiny_corpus(tmp_path / "corpus")
    steps = (FAULTS + 2) * STEPS_BETWEEN
    whole, broken = (Command(tmp_path, name, nodes, steps) for name in ("whole", "broken"))
    whole.start()
    assert whole.process is not None
    assert whole.process.wait(600) == 0, (tmp_path / "output.txt").read_text()[-4000:]

    broken.start()
    draw = random.Random(SEED)
    for step, fault in schedule(SEED, FAULTS):
        broken.wait_for_step(step)
        fault(broken, draw)
    broken.wait_for_step(steps)
    assert broken.process is not None
    assert broken.process.wait(DEADLINE_S) == 0, (tmp_path / "output.txt").read_text()[-4000:]

    # Two workers before and after every fault: the same layout, hence the same bits.
    assert broken.losses() == whole.losses()
    assert [step for step, _ in broken.losses()] == list(range(1, steps + 1))
    ends = [command.records("metrics")[-1] for command in (broken, whole)]
    assert ends[0]["data_digest"] == ends[1]["data_digest"]
    assert ends[0]["rows"] == ends[1]["rows"] == steps * TINY_BATCH
    assert _weights(broken) == _weights(whole)
    assert not list(broken.run.local_path.rglob(".part-*"))
    books = read_ledger(broken.run).books()
    print(json.dumps({"faults": FAULTS, "goodput": books.goodput, "seconds": books.seconds}))


def _weights(command: Command) -> str:
    file = command.run.local_path / "model/model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()
