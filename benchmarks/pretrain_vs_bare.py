"""tokens/s of `raymodel run` against a bare DeepSpeed loop: same model, data, batch and layout.

`python benchmarks/pretrain_vs_bare.py [ZERO …] [--tensor 1] [--rounds 3] [--steps 60]`

The two run in turn on the same machine, so that its noise meets both. Other tenants of a machine
only ever make steps slower, so the rate of a run is that of its faster steps (the upper quartile
after the first ten), and the ratio is that of the best rounds; that of the medians stands beside.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH, WORKERS = 16, 2
WARM_UP_STEPS = 10

JOB = """
name: {name}
storage: runs
cluster: {{workers: {workers}, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: 256
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for zero in arguments.zero or [1]:
            layout = Layout(zero, arguments.tensor)
            compare(Path(folder), layout, arguments.rounds, arguments.steps)


@dataclass(frozen=True)
class Layout:
    zero: int
    tensor: int

    def __str__(self) -> str:
        return f"ZeRO {self.zero}" + (f", tensor {self.tensor}" if self.tensor > 1 else "")


def compare(folder: Path, layout: Layout, rounds: int, steps: int) -> None:
    ours, bare = [], []
    for number in range(rounds):
        ours.append(run_ours(folder, layout, steps))
        bare.append(run_bare(folder, layout, steps))
        print(
            f"{layout}, round {number + 1}: raymodel {ours[-1]:.0f}, bare {bare[-1]:.0f}",
            flush=True,
        )
    best, median = max(ours) / max(bare), statistics.median(ours) / statistics.median(bare)
    print(
        f"{layout}: raymodel / bare = {best:.3f} (best of {rounds}; medians {median:.3f})",
        flush=True,
    )


def run_ours(folder: Path, layout: Layout, steps: int) -> float:
    job = folder / "job.yaml"
    fields = {"name": "bench", "workers": WORKERS, "batch": BATCH, "steps": steps}
    job.write_text(JOB.format(**fields, **asdict(layout)))
    command = [sys.executable, "-m", "raymodel", "run", str(job)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    stage = folder / "runs/bench/pretrain"
    run = stage / (stage / "latest").read_text().strip()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(run)  # so that the next round trains again
    rates = [r["tokens_per_s"] for r in records if "tokens_per_s" in r]
    return statistics.quantiles(rates[WARM_UP_STEPS:], n=4)[2]


def run_bare(folder: Path, layout: Layout, steps: int) -> float:
    stage = folder / "runs/bench/prepare"
    data = stage / (stage / "latest").read_text().strip()
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(WORKERS)),
        *(str(ROOT / "benchmarks/bare_deepspeed.py"), str(data)),
        *map(str, (layout.zero, layout.tensor, BATCH, steps)),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"bare tokens/s (\d+)", output)
    assert found, output
    return float(found[1])


if __name__ == "__main__":
    main()
