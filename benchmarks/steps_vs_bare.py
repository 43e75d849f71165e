"""Seconds of a step of raymodel's loop against a bare DeepSpeed loop's, taken in turn.

`python benchmarks/steps_vs_bare.py [ZERO …] [--tensor 1] [--steps 60]`

Two workers hold both models. After each step of raymodel's loop, under `torchrun`, they do one of
the bare loop on a batch of the same size, so that whatever the machine does meets both alike; the
ratio is of the medians after the first ten. What the data costs is `pretrain_vs_bare.py`'s, which
times whole runs under Ray, one after the other.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WARM_UP_STEPS = 10
BATCH, WORKERS = 16, 2
DATA = "RAYMODEL_BENCHMARK_DATA"
JOB = """
name: bench
storage: runs
cluster: {{workers: {workers}, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: 256
"""
PRETRAIN = """
pretrain:
  model: {{preset: llama-tiny}}
  global_batch: {batch}
  duration: {steps} steps
  log_every: 1 step
  validate_every: {steps} steps
  checkpoint: {{every: {steps} steps}}
  parallel: {{zero: {zero}, tensor: {tensor}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zero", nargs="*", type=int, default=[1])
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.yaml"
        prepare = JOB.format(workers=WORKERS)
        job.write_text(prepare)
        _run([sys.executable, "-m", "raymodel", "run", str(job)], folder)
        stage = Path(folder) / "runs/bench/prepare"
        data = stage / (stage / "latest").read_text().strip()
        for zero in arguments.zero or [1]:
            fields = {"zero": zero, "tensor": arguments.tensor, "steps": arguments.steps}
            job.write_text(prepare + PRETRAIN.format(batch=BATCH, **fields))
            command = [
                *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORKERS)),
                *(__file__, str(job), str(zero), str(arguments.tensor)),
            ]
            words = f"ZeRO {zero}" + (f", tensor {arguments.tensor}" * (arguments.tensor > 1))
            print(words, _run(command, folder, {DATA: str(data)}).splitlines()[-1], flush=True)
            # A run is the same whatever its layout: the next would find it complete.
            shutil.rmtree(Path(folder) / "runs/bench/pretrain")


def _run(command: list[str], folder: str, variables: dict[str, str] | None = None) -> str:
    environment = os.environ | (variables or {})
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def work() -> None:
    """One worker: raymodel's own loop, whose data is handed out with a bare step before each."""
    import torch.distributed as dist
    from bare_deepspeed import BareLoop

    from raymodel import torchrun
    from raymodel.data.feed import DirectFeed
    from raymodel.train.session import TorchrunSession

    job, zero, tensor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    own: list[float] = []
    bare: list[float] = []

    class InTurn(DirectFeed):
        def __iter__(self) -> Iterator:
            loop = BareLoop(Path(os.environ[DATA]), zero, tensor, BATCH)
            for number, rows in enumerate(super().__iter__()):
                bare.append(loop.step(number))
                started = time.perf_counter()
                yield rows
                dist.barrier()  # as after a step of the other
                own.append(time.perf_counter() - started)

    class Session(TorchrunSession):
        def feed(self, dataset, order, start_step, end_step, on_bad_shard, layout):
            place = layout.data_rank, layout.data_world_size
            return InTurn(dataset, order, start_step, end_step, *place, on_bad_shard=on_bad_shard)

    torchrun.TorchrunSession = Session
    code = torchrun.main([job, "pretrain"])
    if code == 0 and os.environ["RANK"] == "0":
        medians = [statistics.median(times[WARM_UP_STEPS:]) for times in (own, bare)]
        print("step {:.3f} s, bare {:.3f} s".format(*medians), end=": ")
        print(f"raymodel / bare = {medians[1] / medians[0]:.3f} tokens/s", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    work() if "RANK" in os.environ else main()
