"""From `kill -9` of a training worker to the next optimizer step, in parts.

`python benchmarks/recovery.py [--kills 3]`

Two workers train the smallest preset on this machine's standard library; one of them is killed at a
step between two checkpoints. Detection ends when the failure is written down, restart when the new
workers have loaded the checkpoint, and the first step includes waiting for its data.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

JOB = """
name: bench
storage: runs
cluster: {{workers: 2, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: 256
pretrain:
  model: {{preset: llama-tiny}}
  global_batch: 8
  duration: {steps} steps
  log_every: 1 step
  validate_every: {steps} steps
  checkpoint: {{every: 10 steps}}
  fault: {{retries: {kills}}}
"""
STEPS_BETWEEN = 25
PARTS = ("detection", "restart", "first step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    kills = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder, "job.yaml")
        job.write_text(JOB.format(steps=STEPS_BETWEEN * (kills + 1), kills=kills))
        command = [sys.executable, "-m", "raymodel", "run", str(job)]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            stage = Path(folder, "runs/bench/pretrain")
            rounds = [kill_once(stage, number) for number in range(1, kills + 1)]
            assert process.wait() == 0, "the run went on to its end"
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
    for parts in rounds:
        told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        print(f"kill → next step {sum(parts.values()):.1f} s: {told}")
    total = statistics.median(sum(parts.values()) for parts in rounds)
    print(f"kill -9 of a worker → next optimizer step: {total:.1f} s (median of {kills})")


def kill_once(stage: Path, number: int) -> dict[str, float]:
    """Seconds of each part of one recovery."""
    wait_for(lambda: first_step(stage, at_least=number * STEPS_BETWEEN))
    attempt = [r for r in records(stage, "events") if r["event"] == "attempt"][-1]
    killed_at = time.time()
    os.kill(attempt["pids"][-1], signal.SIGKILL)
    failure = wait_for(lambda: first_after(stage, "failures", "failure", killed_at))
    ready = wait_for(lambda: first_after(stage, "events", "attempt", killed_at))
    again = wait_for(lambda: first_step(stage, after=ready["time_s"]))
    times = [killed_at, failure["time_s"], ready["time_s"], again["time_s"]]
    seconds = [after - before for before, after in pairwise(times)]
    return dict(zip(PARTS, seconds, strict=True))


def first_step(stage: Path, *, at_least: int = 1, after: float = 0.0) -> Any:
    for record in records(stage, "metrics"):
        if "loss" in record and record["step"] >= at_least and record["time_s"] > after:
            return record
    return None


def first_after(stage: Path, name: str, event: str, after: float) -> Any:
    for record in records(stage, name):
        if record["event"] == event and record["time_s"] > after:
            return record
    return None


def records(stage: Path, name: str) -> list[dict[str, Any]]:
    latest = sorted(stage.glob(f"*/{name}.jsonl"))
    if not latest:
        return []
    lines = latest[0].read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(find: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = find()
        if found is not None:
            return found
        time.sleep(0.05)
    raise TimeoutError("nothing came in five minutes")


if __name__ == "__main__":
    main()
