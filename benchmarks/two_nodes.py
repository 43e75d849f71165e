"""tokens/s of two data-parallel workers on two raylets, against two on one raylet.

`python benchmarks/two_nodes.py [--rounds 3] [--steps 60]`

Both on this machine, in turn, so that its noise meets both; the ratio is that of the medians over
the rounds. The rate of a run is that of its faster steps, the upper quartile after the first ten.
What differs is where Ray puts the workers and how their data reaches them; gradients go through
gloo over loopback either way, so the network of a real cluster is not in this figure.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

from raymodel.testing.nodes import Nodes

WARM_UP_STEPS = 10
JOB = """
name: bench
storage: {storage}
cluster: {{workers: 2, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: 256
pretrain:
  model: {{preset: llama-tiny}}
  global_batch: 16
  duration: {steps} steps
  log_every: 1 step
  validate_every: {steps} steps
  checkpoint: {{every: {steps} steps}}
"""
LAYOUTS = {"one raylet": [2], "two raylets": [1, 1]}
"""CPUs of each node."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in LAYOUTS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "job.yaml").write_text(JOB.format(storage=folder / "runs", steps=arguments.steps))
        for number in range(1, arguments.rounds + 1):
            for name, cpus in LAYOUTS.items():
                rates[name].append(measure(folder, cpus))
                print(f"round {number}, {name}: {rates[name][-1]:.0f} tokens/s", flush=True)
    one, two = (statistics.median(rates[name]) for name in LAYOUTS)
    print(f"two raylets / one raylet = {two / one:.3f} (medians of {arguments.rounds})")


def measure(folder: Path, cpus: list[int]) -> float:
    """tokens/s of one run on nodes with so many CPUs."""
    with Nodes() as nodes:
        for num_cpus in cpus:
            nodes.add(num_cpus)
        process = nodes.raymodel("run", "job.yaml", "--address", nodes.address, cwd=folder)
        output, _ = process.communicate()
        assert process.returncode == 0, output
    stage = folder / "runs/bench/pretrain"
    run = stage / (stage / "latest").read_text().strip()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(run)  # so that the next round trains again
    rates = [record["tokens_per_s"] for record in records if "tokens_per_s" in record]
    return statistics.quantiles(rates[WARM_UP_STEPS:], n=4)[2]


if __name__ == "__main__":
    main()
