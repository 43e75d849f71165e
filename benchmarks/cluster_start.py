"""From `raymodel submit` to the first optimizer step: on a warm head, and on one that must grow.

`python benchmarks/cluster_start.py [--rounds 3]`

The dataset is prepared before the clock starts. Warm: two nodes of one CPU are there. Growing: the
head of `cluster/local-autoscaling.yaml` has none, and its autoscaler starts two, each time anew.
The first step is the `time_s` of its record, so a step that was logged is a step that was done.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from raymodel.testing.nodes import Node, Nodes

ROOT = Path(__file__).parents[1]
IDLE_S = 300.0  # nodes that are idle go after half a minute
JOB = """
name: bench
storage: {storage}
cluster: {{workers: 2, threads_per_worker: 1}}
prepare:
  sources: [{{path: "python:stdlib"}}]
  tokenizer: {{vocab_size: 4096}}
  sequence_length: 256
"""
PRETRAIN = """
pretrain:
  model: {{preset: llama-tiny}}
  global_batch: 8
  duration: 3 steps
  log_every: 1 step
  optimizer: {{learning_rate: {rate}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        with Nodes(dashboard=True) as nodes:
            nodes.add()
            nodes.add()
            bench.prepare(nodes)
            warm = [bench.measure(nodes, "warm") for _ in range(rounds)]
        file = ROOT / "cluster/local-autoscaling.yaml"
        with Nodes(dashboard=True, autoscaling=file) as nodes:
            growing = []
            for _ in range(rounds):
                nodes.wait_until(lambda alive: not workers(alive), "idle nodes to go", IDLE_S)
                growing.append(bench.measure(nodes, "0 → 2 nodes"))
    for words, seconds in (("warm head", warm), ("autoscaling 0 → 2 nodes", growing)):
        print(f"submit → first step, {words}: {statistics.median(seconds):.1f} s (median)")


def workers(alive: list[Node]) -> list[Node]:
    return [node for node in alive if node.type == "worker"]


class Bench:
    """One job, submitted again and again with another learning rate, so that it trains anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def prepare(self, nodes: Nodes) -> None:
        self._submit(nodes, "")

    def measure(self, nodes: Nodes, words: str) -> float:
        """Seconds from the command's start to the end of the first step."""
        self._count += 1
        started = time.time()
        self._submit(nodes, PRETRAIN.format(rate=1e-4 * self._count))
        stage = self._folder / "runs/bench/pretrain"
        run = stage / (stage / "latest").read_text().strip()
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        seconds = float(next(r["time_s"] for r in records if "loss" in r)) - started
        print(f"{words}: {seconds:.1f} s", flush=True)
        return seconds

    def _submit(self, nodes: Nodes, pretrain: str) -> None:
        job = self._folder / "job.yaml"
        job.write_text(JOB.format(storage=self._folder / "runs") + pretrain)
        process = nodes.submit(job)
        output, _ = process.communicate()
        assert process.returncode == 0, output


if __name__ == "__main__":
    main()
