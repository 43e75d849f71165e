"""kill -9 of the driver in each stage; the next run ends in the same artifacts."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from journeys import JobRunner, tiny_job  # type: ignore[import-not-found]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STAGES = ("prepare", "pretrain", "examples", "finetune", "evaluate", "serve")


def _weights(runner: JobRunner, stage: str) -> str:
    file = runner.artifact(stage) / "model/model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _shards(runner: JobRunner, stage: str) -> list[str]:
    files = sorted((runner.artifact(stage) / "data").rglob("*.parquet"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _moment(runner: JobRunner, stage: str) -> Callable[[], bool]:
    """True once the stage has begun to do its work."""
    folder = runner.folder / "runs/tiny" / stage

    def is_time() -> bool:
        if stage in ("pretrain", "finetune"):  # in the middle, with a checkpoint to go on from
            return any(folder.glob("*/checkpoints/*/checkpoint.json"))
        return any(folder.glob("*/spec.yaml"))

    return is_time


def test_a_job_killed_in_every_stage_ends_in_the_same_artifacts(
    runner: JobRunner, corpus: Path, tmp_path: Path
) -> None:
    spec = tiny_job(corpus)
    # In a storage of its own, since runs of one storage take prepared data over from each other.
    unbroken = JobRunner(runner.folder / "unbroken", tmp_path)
    unbroken.folder.mkdir()
    whole = runner.write(spec | {"name": "whole", "storage": str(unbroken.folder / "runs")})
    runner.run("run", str(whole))

    job = runner.write(spec)
    for stage in STAGES:
        runner.kill_when(job, _moment(runner, stage))
        assert not any((runner.folder / "runs/tiny" / stage).glob("*/manifest.json")), stage
    runner.run("run", str(job))

    for stage in ("prepare", "examples"):
        assert _shards(runner, stage) == [
            hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted((unbroken.artifact(stage, "whole") / "data").rglob("*.parquet"))
        ]
    for stage in ("pretrain", "finetune"):
        file = unbroken.artifact(stage, "whole") / "model/model.safetensors"
        assert _weights(runner, stage) == hashlib.sha256(file.read_bytes()).hexdigest()
        ours = json.loads((runner.artifact(stage) / "manifest.json").read_text())["content"]
        theirs = json.loads((unbroken.artifact(stage, "whole") / "manifest.json").read_text())[
            "content"
        ]
        assert ours["data_digest"] == theirs["data_digest"]
