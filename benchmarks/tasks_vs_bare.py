"""Steps/s of every task, beside a bare loop of the same model, batches and optimizer.

`python benchmarks/tasks_vs_bare.py [TASK …] [--turns 4] [--turn 4] [--threads 1]`

One worker in fp32, as `torchrun` would start it; no part of Ray takes part, whose share
`pretrain_vs_bare.py` and `finetune_vs_trainer.py` show. What reads rows, collates them, checks
them against the others, clips, records and follows a schedule is in the figure of raymodel. The
bare loop has its batches ready before it begins, and only computes: the task's own loss, its
gradient, the norm at which it is clipped, and torch's AdamW. Both train at once and take turns
(`turns.py`). The models have some million parameters, so that a step takes a tenth of a second or
more.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.append(str(Path(__file__).parents[1] / "tests/train"))  # a model and rows of each task

import numpy as np
import torch
from tiny_tasks import TINY, make_rows, work_of, write_sources
from turns import start_other, start_ours, take_turns

from raymodel.chance import Draw
from raymodel.data.columns import columns_of
from raymodel.data.shard import Dataset, open_dataset
from raymodel.model.load import load_for_use
from raymodel.storage.artifact import open_artifact
from raymodel.storage.uri import Location
from raymodel.tasks.base import Task
from raymodel.testing.distributed import free_port
from raymodel.testing.sounds import write_tiny_whisper
from raymodel.train.session import TorchrunSession
from raymodel.train.work import TrainWork
from raymodel.train.worker import run_worker

BATCH, RECORD_STEPS, READY = 16, 2, 8
BATCHES = {"masked_lm": 64}
"""Task → rows of a step, where they are so short that `BATCH` of them take much less."""
LLAMA = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
BERT = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
T5 = {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 3}
VIT = BERT | {"patch_size": 1}
MAE = VIT | {
    "decoder_hidden_size": 128,
    "decoder_intermediate_size": 512,
    "decoder_num_hidden_layers": 2,
}
WAVE = BERT | {"num_attention_heads": 4, "conv_dim": [128, 128, 128]}
SEGFORMER = {"hidden_sizes": [64, 128], "decoder_hidden_size": 128}
DETR = {
    "d_model": 128,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
}
WHISPER = {
    "d_model": 192,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_ffn_dim": 768,
    "decoder_ffn_dim": 768,
}
SIZES = {
    "llama": LLAMA,
    "bert": BERT,
    "t5": T5,
    "vit": VIT,
    "vit_mae": MAE,
    "wav2vec2": WAVE,
    "segformer": SEGFORMER,
    "detr": DETR,
}
"""Architecture → what is larger than in the tests."""
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
SIDES = {"image_segmentation": 64, "object_detection": 64}
"""Task → pixels a side of its images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="by default all")
    parser.add_argument("--turns", type=int, default=4, help="of each side")
    parser.add_argument("--turn", type=float, default=4.0, help="its seconds")
    parser.add_argument("--threads", type=int, default=1, help="of either side")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    make_larger()
    if arguments.part:
        os.environ |= ALONE | {"MASTER_PORT": str(free_port())}
        PARTS[arguments.part](arguments.tasks[0], arguments.folder, arguments.threads)
        return
    for name in arguments.tasks or TINY:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder), arguments)


def make_larger() -> None:
    """Gives the models of the tests more to do."""
    for name, tiny in TINY.items():
        model, task = tiny.model, tiny.task
        if model:
            model = model | {"config": model["config"] | SIZES[model["architecture"]]}
        if name in SIDES:
            task = task | {"image": task["image"] | {"size": SIDES[name]}}
        TINY[name] = replace(tiny, model=model, task=task)


def compare(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Prints one line."""

    def words(part: str) -> list[str]:
        own = ("--part", part, "--folder", str(folder), "--threads", str(arguments.threads))
        return [sys.executable, __file__, name, *own]

    subprocess.run(words("rows"), check=True)
    steps, quarters = take_turns(
        [
            lambda: start_ours(folder, words("ours"), "run"),
            lambda: start_other(folder, words("bare")),
        ],
        arguments.turns,
        arguments.turn,
    )
    ours, bare = steps
    print(
        f"{name}: raymodel {ours:.2f}, bare {bare:.2f} steps/s; raymodel / bare = "
        f"{ours / bare:.3f} (quarters {', '.join(f'{ratio:.3f}' for ratio in quarters)})",
        flush=True,
    )


def make_all_rows(name: str, folder: Path, threads: int) -> None:
    write_sources(folder)
    write_tiny_whisper(folder / "whisper", **WHISPER)
    make_rows(name, folder)


def work_for(name: str, folder: Path, run: Path, threads: int, **fields: Any) -> TrainWork:
    """Like `fields`, and the batch of the task."""
    never = f"{10**6} steps"
    given = {
        "global_batch": BATCHES.get(name, BATCH),
        "duration": never,
        "optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "log_every": f"{RECORD_STEPS} steps",
        "validate_every": never,
        "checkpoint": {"every": never},
    }
    rows = open_artifact(Location.parse(str(folder / "rows" / name)))
    work = work_of(name, rows, folder, run, **(given | fields))
    return replace(work, threads=threads)


def train_ours(name: str, folder: Path, threads: int) -> None:
    """Until it is interrupted."""
    run_worker(work_for(name, folder, folder / "runs/bench/run/0", threads), TorchrunSession())


def train_bare(name: str, folder: Path, threads: int) -> None:
    """Of the model as it is after one step of ours."""
    work = work_for(name, folder, folder / "first", threads, duration="1 step")
    run_worker(work, TorchrunSession())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the training had taken
    torch.set_num_threads(threads)
    rows = open_dataset(work.dataset, "train")
    model, task = load_for_use(
        folder / "first/model", name, spec=work.task, labels=work.labels, dtype=torch.float32
    )
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    size = BATCHES.get(name, BATCH)
    batches = itertools.cycle([batch_of(rows, task, step, size) for step in range(READY)])
    for step, batch in zip(itertools.count(1), batches, strict=False):
        loss = task.loss(model, batch) / task.num_targets(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % RECORD_STEPS == 0:
            print(f"step {step} at {time.time():.3f} loss {float(loss):.3f}", flush=True)


def batch_of(rows: Dataset, task: Task, step: int, size: int) -> dict[str, torch.Tensor]:
    """The next rows of the data set in the order in which they lie."""
    places = (np.arange(size) + step * size) % rows.num_rows
    return task.collate(columns_of(rows.read(places)), Draw(3, step, places))


PARTS = {"rows": make_all_rows, "ours": train_ours, "bare": train_bare}

if __name__ == "__main__":
    main()
