"""tokens/s of `raymodel run` against a bare DeepSpeed loop: same model, data, batch and layout.

`python benchmarks/pretrain_vs_bare.py [ZERO …] [--tensor 1] [--workers 2] [--turns 24] [--turn 5]`

Both train at once on the same machine and take turns of some seconds. In a turn every process of
the other stands still, Ray's and those that read its data among them. So whatever else the machine
does meets both alike, and all that a run needs is in its figure. The rate of a side is the steps
between its first and its last record by the seconds of its own turns between them; the ratio of
each quarter of that time shows how far it can be trusted.

With as many workers as cores, Ray's own processes take part of the training's: each wakes 100 times
a second to look for signals. With fewer they have a core of their own, as on a cluster's nodes.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
BATCH, SEQUENCE_LENGTH = 16, 256
RECORD_STEPS = 10
PARTS = 4
START_S = 300

JOB = """
name: bench
storage: runs
cluster: {{workers: {workers}, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: {sequence_length}
pretrain:
  model: {{preset: llama-tiny}}
  global_batch: {batch}
  duration: 100000 steps
  log_every: {record_steps} steps
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
    with tempfile.TemporaryDirectory() as folder:
        for zero in arguments.zero:
            layout = Layout(zero, arguments.tensor, arguments.workers)
            compare(Path(folder), layout, arguments.turns, arguments.turn)


@dataclass(frozen=True)
class Layout:
    zero: int
    tensor: int
    workers: int

    def __str__(self) -> str:
        tensor = f", tensor {self.tensor}" if self.tensor > 1 else ""
        return f"ZeRO {self.zero}{tensor}, {self.workers} worker{'s' * (self.workers > 1)}"


@dataclass
class Side:
    """A training that goes on and stands still as it is told."""

    process: subprocess.Popen
    read_records: Callable[[], list[tuple[float, int]]]
    """Unix time and step of each record so far."""
    turns: list[tuple[float, float]] = field(default_factory=list)
    """Unix times of the begin and end of each."""

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
        while not self.read_records():
            assert self.process.poll() is None, f"{self.process.args} ended"
            assert time.monotonic() < deadline, f"{self.process.args} did not begin to train"
            time.sleep(0.1)
        self.signal(signal.SIGSTOP)

    def take_turn(self, seconds: float) -> None:
        began_at = time.time()
        self.signal(signal.SIGCONT)
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        self.turns.append((began_at, time.time()))

    def rates(self, parts: int) -> list[float]:
        """tokens/s in each of `parts` equal parts of the time between its records."""
        edges = np.array(self.turns).ravel()
        lengths = np.diff(edges)
        lengths[1::2] = 0.0  # the other's turns
        spent = np.concatenate([[0.0], np.cumsum(lengths)])
        times, steps = np.array([r for r in self.read_records() if r[0] >= edges[0]]).T
        seconds = np.interp(times, edges, spent)
        bounds = np.linspace(seconds[0], seconds[-1], parts + 1)
        done = np.diff(np.interp(bounds, seconds, steps))
        return list(BATCH * SEQUENCE_LENGTH * done / np.diff(bounds))

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(START_S)


def compare(folder: Path, layout: Layout, turns: int, turn: float) -> None:
    shutil.rmtree(folder / "runs/bench/pretrain", ignore_errors=True)  # of the layout before
    with ExitStack() as ends:
        sides = []
        for start in (start_ours, start_bare):
            sides.append(start(folder, layout))
            ends.callback(sides[-1].end)
            sides[-1].warm_up()
        for _ in range(turns):
            for side in sides:
                side.take_turn(turn)
        (ours,), (bare,) = (side.rates(1) for side in sides)
        quarters = np.divide(*(side.rates(PARTS) for side in sides))
    print(
        f"{layout}: raymodel {ours:.0f}, bare {bare:.0f} tokens/s; "
        f"raymodel / bare = {ours / bare:.3f} "
        f"(quarters {', '.join(f'{ratio:.3f}' for ratio in quarters)})",
        flush=True,
    )


def start_ours(folder: Path, layout: Layout) -> Side:
    job = folder / "job.yaml"
    sizes = {"batch": BATCH, "sequence_length": SEQUENCE_LENGTH, "record_steps": RECORD_STEPS}
    job.write_text(JOB.format(**sizes, **asdict(layout)))
    command = [sys.executable, "-m", "raymodel", "run", str(job)]

    def read_records() -> list[tuple[float, int]]:
        lines = [
            line
            for path in folder.glob("runs/bench/pretrain/*/metrics.jsonl")
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        return [(record["time_s"], record["step"]) for record in map(json.loads, lines)]

    return _start(command, folder, "ours", read_records)


def start_bare(folder: Path, layout: Layout) -> Side:
    """On the dataset of the other."""
    stage = folder / "runs/bench/prepare"
    data = stage / (stage / "latest").read_text().strip()
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(layout.workers)),
        *(str(ROOT / "benchmarks/bare_deepspeed.py"), str(data)),
        *map(str, (layout.zero, layout.tensor, BATCH, RECORD_STEPS)),
    ]

    def read_records() -> list[tuple[float, int]]:
        lines = [line.split() for line in (folder / "bare.txt").read_text().splitlines()]
        return [(float(words[3]), int(words[1])) for words in lines if words[:1] == ["step"]]

    return _start(command, folder, "bare", read_records)


def _start(
    command: list[str],
    folder: Path,
    name: str,
    read_records: Callable[[], list[tuple[float, int]]],
) -> Side:
    with (folder / f"{name}.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    return Side(process, read_records)


if __name__ == "__main__":
    main()
