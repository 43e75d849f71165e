"""Two trainings that take turns on one machine, so that what else it does meets both alike.

In a turn of one side every process of the other stands still, Ray's and those that read its data
among them. The rate of a side is the steps between its first and its last record by the seconds of
its own turns between them; the ratio of each quarter of that time shows how far it can be trusted.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

PARTS = 4
START_S = 300
_LINES = 20


@dataclass
class Side:
    """A training that goes on and stands still as it is told."""

    process: subprocess.Popen
    read_records: Callable[[], list[tuple[float, int]]]
    """Unix time and step of each record so far."""
    output: Path
    """What it prints."""
    turns: list[tuple[float, float]] = field(default_factory=list)
    """Unix times of the begin and end of each."""

    def printed(self) -> str:
        """The end of it."""
        return "\n".join(self.output.read_text().splitlines()[-_LINES:])

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
            assert self.process.poll() is None, f"{self.process.args} ended:\n{self.printed()}"
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
        """Steps per second in each of `parts` equal parts of the time between its records.

        Raises:
            RuntimeError: it made no step in its turns, or all at once, so that it has no rate.
        """
        edges = np.array(self.turns).ravel()
        lengths = np.diff(edges)
        lengths[1::2] = 0.0  # the other's turns
        spent = np.concatenate([[0.0], np.cumsum(lengths)])
        records = [each for each in self.read_records() if each[0] >= edges[0]]
        seconds = np.interp([time_s for time_s, _ in records], edges, spent)
        if len(records) < 2 or seconds[-1] <= seconds[0]:
            turns_s = float(spent[-1])
            raise RuntimeError(
                f"{self.process.args} wrote {len(records)} records of steps in "
                f"{len(self.turns)} turns of {turns_s:.0f} s together, and a rate needs two that "
                "lie apart; give it longer turns or a smaller model, or see what it printed"
            )
        steps = [step for _, step in records]
        bounds = np.linspace(seconds[0], seconds[-1], parts + 1)
        done = np.diff(np.interp(bounds, seconds, steps))
        return list(done / np.diff(bounds))

    def end(self) -> None:
        if self.process.poll() is not None:
            return  # which is why the other is ended
        self.signal(signal.SIGCONT)
        # Not SIGINT, which is ignored by what was started in the background of a script.
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(START_S)


def take_turns(
    starts: list[Callable[[], Side]], turns: int, turn_s: float
) -> tuple[list[float], np.ndarray]:
    """Steps per second of each of two sides, and the first's by the second's in each quarter.

    Raises:
        RuntimeError: a side made no step.
    """
    with ExitStack() as ends:
        sides = []
        for start in starts:
            sides.append(start())
            ends.callback(sides[-1].end)
            sides[-1].warm_up()
        for _ in range(turns):
            for side in sides:
                side.take_turn(turn_s)
        return (
            [side.rates(1)[0] for side in sides],
            np.divide(*(side.rates(PARTS) for side in sides)),
        )


def start_ours(folder: Path, command: list[str], stage: str) -> Side:
    """A stage of raymodel of the job `bench`, read from its records."""

    def read_records() -> list[tuple[float, int]]:
        lines = [
            line
            for path in folder.glob(f"runs/bench/{stage}/*/metrics.jsonl")
            for line in path.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        return [(record["time_s"], record["step"]) for record in map(json.loads, lines)]

    return _start(command, folder, "ours", read_records)


def start_other(folder: Path, command: list[str]) -> Side:
    """What prints `step N at UNIX-TIME …`."""

    def read_records() -> list[tuple[float, int]]:
        lines = [line.split() for line in (folder / "other.txt").read_text().splitlines()]
        return [(float(words[3]), int(words[1])) for words in lines if words[:1] == ["step"]]

    return _start(command, folder, "other", read_records)


def _start(
    command: list[str],
    folder: Path,
    name: str,
    read_records: Callable[[], list[tuple[float, int]]],
) -> Side:
    path = folder / f"{name}.txt"
    with path.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    return Side(process, read_records, path)
