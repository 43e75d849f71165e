"""Every job file that is shipped runs whole: shortened with the default tests, else as it is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from conftest import JobRunner, Workplace  # type: ignore[import-not-found]
from shapes import origins  # type: ignore[import-not-found]
from shipped import FIRST, JOBS, run_shortened  # type: ignore[import-not-found]

from raymodel.testing.distributed import free_port

STAGES = origins().keys()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "path",
    [*JOBS, pytest.param(FIRST, marks=pytest.mark.slow)],
    ids=lambda path: path.name,
)
def test_a_shipped_job_file_runs_whole(
    workplace: Workplace, path: Path, request: pytest.FixtureRequest
) -> None:
    job = yaml.safe_load(path.read_text())
    if path.name == "quickstart.yaml":  # which other tests need too
        said = request.getfixturevalue("given")
    else:
        said = run_shortened(workplace, path, "evaluate.gates={}")
    begun = {line.partition(" ")[0] for line in said.splitlines()}
    assert begun >= STAGES & job.keys()
    assert "answered:" in said or "serve" not in job


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
