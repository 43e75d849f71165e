"""Every job file that is shipped runs whole: shortened with the default tests, else as it is."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from journeys import JobRunner, Workplace  # type: ignore[import-not-found]
from shapes import origins  # type: ignore[import-not-found]
from shipped import FIRST, JOBS, run_shortened  # type: ignore[import-not-found]

from raymodel import cli
from raymodel.job.spec import Job
from raymodel.spec.load import load_job
from raymodel.testing.distributed import free_port

STAGES = origins().keys()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "path",
    [*JOBS, pytest.param(FIRST, marks=pytest.mark.slow)],
    ids=lambda path: path.name,
)
def test_a_shipped_job_file_runs_whole(
    path: Path, workplace: Workplace, request: pytest.FixtureRequest
) -> None:
    job = yaml.safe_load(path.read_text())
    if path.name == "quickstart.yaml":  # which other tests need too
        said = request.getfixturevalue("given")
    else:
        said = run_shortened(workplace, path, "evaluate.gates={}")
    begun = {line.partition(" ")[0] for line in said.splitlines()}
    assert begun >= STAGES & job.keys()
    assert "answered:" in said or "serve" not in job


def _asked(job: Job) -> set[tuple[str, object]]:
    """Each field of a job with its value: of a number only that it is one, of an amount its unit.

    `name` is nobody's, and of a section that is not there nothing is asked.
    """

    def leaves(value: Any, path: str) -> Iterator[tuple[str, object]]:
        if isinstance(value, dict):
            for name, each in value.items():
                yield from leaves(each, f"{path}.{name}")
        elif isinstance(value, list):
            for each in value:
                yield from leaves(each, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, "a number"
        else:
            is_amount = isinstance(value, str) and value[0].isdigit()
            yield path, re.sub(r"[\d.]+ ?", "", value) if is_amount else value

    sections = {name: value for name, value in job.to_dict().items() if value and name != "name"}
    return set(leaves(sections, ""))


def test_the_file_of_init_asks_for_little_that_the_jobs_which_run_here_do_not(
    tmp_path: Path,
) -> None:
    """That it runs whole is shown without a run of its own, which the slow tests have."""
    path = tmp_path / "job.yaml"
    assert cli.main(["init", str(path)]) == 0
    assert path.read_text() == FIRST.read_text()
    run = set[tuple[str, object]]().union(*(_asked(load_job(each).job) for each in JOBS))
    assert _asked(load_job(path).job) - run == {
        (".pretrain.precision", "bf16"),  # tests/train
        (".pretrain.optimizer.weight_decay", None),  # tests/train, which leave it out
        (".evaluate.metrics", "bits_per_byte"),  # tests/evaluate
    }


@pytest.mark.timeout(300)
def test_the_own_gate_of_a_shipped_job_is_held(workplace: Workplace) -> None:
    """Two steps do not make a classifier."""
    path = next(path for path in JOBS if path.name == "classify.yaml")
    assert "error: accuracy is 0." in run_shortened(workplace, path, code=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", [*JOBS, FIRST], ids=lambda path: path.name)
def test_a_shipped_job_file_runs_as_it_is(runner: JobRunner, path: Path) -> None:
    packages = set(re.findall(r"python:(\w+)", path.read_text())) - {"stdlib"}
    if any(importlib.util.find_spec(package) is None for package in packages):
        pytest.skip("needs pip install -e '.[examples]'")
    port = f"serve.port={free_port()}"
    assert "answered:" in runner.run("run", str(path), "--set", port, timeout_s=1700)
