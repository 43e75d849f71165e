"""tokens/s of `raymodel run` against a bare DeepSpeed loop: same model, data, batch and layout.

`python benchmarks/pretrain_vs_bare.py [ZERO …] [--tensor 1] [--workers 2] [--turns 24] [--turn 5]`

Both train at once on the same machine and take turns of some seconds (`turns.py`), so that all that
a run needs is in its figure.

With as many workers as cores, Ray's own processes take part of the training's: each wakes 100 times
a second to look for signals. With fewer they have a core of their own, as on a cluster's nodes.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from turns import Side, start_other, start_ours, take_turns

ROOT = Path(__file__).parents[1]
BATCH, SEQUENCE_LENGTH = 16, 256
RECORD_STEPS = 10

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


def compare(folder: Path, layout: Layout, turns: int, turn: float) -> None:
    shutil.rmtree(folder / "runs/bench/pretrain", ignore_errors=True)  # of the layout before
    steps, quarters = take_turns(
        [lambda: _start_ours(folder, layout), lambda: _start_bare(folder, layout)], turns, turn
    )
    ours, bare = (BATCH * SEQUENCE_LENGTH * rate for rate in steps)
    print(
        f"{layout}: raymodel {ours:.0f}, bare {bare:.0f} tokens/s; "
        f"raymodel / bare = {ours / bare:.3f} "
        f"(quarters {', '.join(f'{ratio:.3f}' for ratio in quarters)})",
        flush=True,
    )


def _start_ours(folder: Path, layout: Layout) -> Side:
    job = folder / "job.yaml"
    sizes = {"batch": BATCH, "sequence_length": SEQUENCE_LENGTH, "record_steps": RECORD_STEPS}
    job.write_text(JOB.format(**sizes, **asdict(layout)))
    return start_ours(folder, [sys.executable, "-m", "raymodel", "run", str(job)], "pretrain")


def _start_bare(folder: Path, layout: Layout) -> Side:
    """On the dataset of the other."""
    stage = folder / "runs/bench/prepare"
    data = stage / (stage / "latest").read_text().strip()
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(layout.workers)),
        *(str(ROOT / "benchmarks/bare_deepspeed.py"), str(data)),
        *map(str, (layout.zero, layout.tensor, BATCH, RECORD_STEPS)),
    ]
    return start_other(folder, command)


if __name__ == "__main__":
    main()
