"""tokens/s of `raymodel run` against a bare DeepSpeed loop: same model, data, batch and layout.

`python benchmarks/pretrain_vs_bare.py [ZERO …] [--tensor 1] [--workers 2] [--turns 24] [--turn 5]`

Both train at once on the same machine and take turns of some seconds. In a turn every process of
the other stands still, Ray's and those that read its data among them. So whatever else the machine
does meets both alike, and all that a run needs is in its figure. The rate of a side is the steps of
its turns by their seconds; the ratio of each quarter of the turns shows how far it can be trusted.

With as many workers as cores, Ray's own processes take part of the training's: each wakes 100 times
a second to look for signals. With fewer they have a core of their own, as on a cluster's nodes.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
BATCH, SEQUENCE_LENGTH = 16, 256
WARM_UP_STEPS = 10
PARTS = 4
START_S = 300

PREPARE = """
name: bench
storage: runs
cluster: {{workers: {workers}, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: {sequence_length}
"""
PRETRAIN = """
pretrain:
  model: {{preset: llama-tiny}}
  global_batch: {batch}
  duration: 100000 steps
  log_every: 1 step
  validate_every: 100000 steps
  checkpoint: {{every: 100000 steps}}
  parallel: {{zero: {zero}, tensor: {tensor}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zero", nargs="*", type=int, default=[1])
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="one thread each")
    parser.add_argument("--turns", type=int, default=24, help="of each side")
    parser.add_argument("--turn", type=float, default=5.0, help="its seconds")
    arguments = parser.parse_args()
    for zero in arguments.zero or [1]:
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(zero, arguments.tensor, arguments.workers)
            compare(Path(folder), layout, arguments.turns, arguments.turn)


@dataclass(frozen=True)
class Layout:
    zero: int
    tensor: int
    workers: int

    def __str__(self) -> str:
        tensor = f", tensor {self.tensor}" if self.tensor > 1 else ""
        return f"ZeRO {self.zero}{tensor}, {self.workers} workers"


@dataclass
class Side:
    """A training that goes on and stands still as it is told."""

    process: subprocess.Popen
    count_steps: Callable[[], int]
    steps: list[int] = field(default_factory=list)
    """Done in each turn; a step that a turn cut short counts where it ended."""
    seconds: list[float] = field(default_factory=list)
    """Of each turn."""

    def signal(self, number: int) -> None:
        """To all its processes, those included that another starts meanwhile."""
        root, told = psutil.Process(self.process.pid), set()
        while new := {root, *root.children(recursive=True)} - told:
            for process in new:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            told |= new

    def warm_up(self) -> None:
        deadline = time.monotonic() + START_S
        while self.count_steps() < WARM_UP_STEPS:
            assert self.process.poll() is None, f"{self.process.args} ended"
            assert time.monotonic() < deadline, f"{self.process.args} did not begin to train"
            time.sleep(0.1)
        self.signal(signal.SIGSTOP)

    def take_turn(self, seconds: float) -> None:
        before, started = self.count_steps(), time.perf_counter()
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        self.seconds.append(time.perf_counter() - started)
        self.steps.append(self.count_steps() - before)

    def rate(self, turns: slice) -> float:
        """tokens/s."""
        return BATCH * SEQUENCE_LENGTH * sum(self.steps[turns]) / sum(self.seconds[turns])

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(START_S)


def compare(folder: Path, layout: Layout, turns: int, turn: float) -> None:
    with ExitStack() as ends:
        sides = []
        for start in (start_ours, start_bare):
            sides.append(start(folder, layout))
            ends.callback(sides[-1].end)
            sides[-1].warm_up()
        for _ in range(turns):
            for side in sides:
                side.take_turn(turn)
    ours, bare = sides
    parts = [slice(turns * part // PARTS, turns * (part + 1) // PARTS) for part in range(PARTS)]
    ratios = [ours.rate(part) / bare.rate(part) for part in parts]
    whole = slice(turns)
    print(
        f"{layout}: raymodel {ours.rate(whole):.0f}, bare {bare.rate(whole):.0f} tokens/s; "
        f"raymodel / bare = {ours.rate(whole) / bare.rate(whole):.3f} "
        f"(quarters {', '.join(f'{ratio:.3f}' for ratio in ratios)})",
        flush=True,
    )


def start_ours(folder: Path, layout: Layout) -> Side:
    job = folder / "job.yaml"
    fields = {"sequence_length": SEQUENCE_LENGTH, "batch": BATCH, **asdict(layout)}
    job.write_text((PREPARE + PRETRAIN).format(**fields))
    command = [sys.executable, "-m", "raymodel", "run", str(job)]

    def count_steps() -> int:
        records = [
            json.loads(line)
            for path in folder.glob("runs/bench/pretrain/*/metrics.jsonl")
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        return sum("loss" in record for record in records)

    return _start(command, folder, "ours", count_steps)


def start_bare(folder: Path, layout: Layout) -> Side:
    """On the dataset of the other."""
    stage = folder / "runs/bench/prepare"
    data = stage / (stage / "latest").read_text().strip()
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(layout.workers)),
        *(str(ROOT / "benchmarks/bare_deepspeed.py"), str(data)),
        *map(str, (layout.zero, layout.tensor, BATCH)),
    ]

    def count_steps() -> int:
        lines = (folder / "bare.txt").read_text().splitlines()
        return sum(line.startswith("step ") for line in lines)

    return _start(command, folder, "bare", count_steps)


def _start(command: list[str], folder: Path, name: str, count_steps: Callable[[], int]) -> Side:
    with (folder / f"{name}.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    return Side(process, count_steps)


if __name__ == "__main__":
    main()
