"""Every shape of a job runs, is planned, has its states shown and is skipped once complete.

By default one of each set of stages is planned; the files in `jobs/` are the shapes that run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from journeys import Workplace  # type: ignore[import-not-found]
from shapes import (  # type: ignore[import-not-found]
    ABSENT,
    all_shapes,
    by_stages,
    few_shapes,
    job_of,
    name_of,
    origins,
    run_stages_of,
    sections,
    stages_of,
)

Parts = dict[str, dict[str, dict[str, Any]]]
SHAPES = list(all_shapes(sections(Path("/nowhere"), 1)))
PLANNED, FEW = by_stages(SHAPES), few_shapes(SHAPES)


@pytest.fixture(scope="module")
def parts(workplace: Workplace, given: str) -> Parts:
    """The sections of all jobs here, once there is a run that they may take their inputs from."""
    return sections(workplace.folder, workplace.ray.port)


def test_every_stage_has_a_section_here_for_every_place_its_input_may_come_from() -> None:
    known = {stage: set(found) for stage, found in sections(Path("/nowhere"), 1).items()}
    assert known == {stage: set(found) for stage, found in origins().items()}


def test_the_chosen_shapes_have_every_set_of_stages_and_every_origin() -> None:
    def stages(shapes: list[dict[str, str]]) -> set[tuple[str, ...]]:
        return {tuple(stages_of(shape)) for shape in shapes}

    def places(shapes: list[dict[str, str]]) -> set[tuple[str, str]]:
        return {pair for shape in shapes for pair in shape.items()}

    assert stages(PLANNED) == stages(SHAPES)
    assert places(PLANNED) == places(FEW) == places(SHAPES)
    every = {(stage, origin) for stage, found in origins().items() for origin in (*found, ABSENT)}
    assert places(FEW) == every


@pytest.mark.timeout(900)  # the first has the quickstart run
@pytest.mark.parametrize("shape", PLANNED, ids=name_of)
def test_every_set_of_stages_is_checked_and_planned(
    workplace: Workplace, parts: Parts, shape: dict[str, str]
) -> None:
    job = workplace.write(job_of(shape, parts) | {"name": "planned"})
    workplace.ray.run("check", job)
    said = workplace.ray.run("plan", job)
    assert "not known" not in said
    listed = {line.split()[0] for line in said.splitlines() if line.strip()}
    assert listed & shape.keys() == set(run_stages_of(shape))


def run_all_commands(workplace: Workplace, parts: Parts, shape: dict[str, str]) -> None:
    job = workplace.write(job_of(shape, parts))  # all of one name: what they share is made once
    stages = run_stages_of(shape)
    if "finetune" in stages:
        stages.insert(stages.index("finetune"), "examples")
    ray = workplace.ray

    ray.run("check", job)
    assert "not known" not in ray.run("plan", job)
    said = ray.run("run", job)
    assert stages == [stage for line in said.splitlines() if (stage := stage_of(line, stages))]
    planned = ray.run("plan", job).splitlines()[1 : 1 + len(stages)]
    assert [line.split()[:2] for line in planned] == [[stage, "complete"] for stage in stages]
    listed = status_of("shaped", ray.run("status", "runs"))
    assert all([stage, "complete"] in listed for stage in stages)
    again = ray.run("run", job)
    assert again.count("complete, skipped") == len(stages), again


def status_of(run: str, text: str) -> list[list[str]]:
    """Stage and state of each row of a run."""
    (rows,) = [part for part in text.split("\n\n") if part.startswith(f"{run}\n")]
    return [line.split()[:2] for line in rows.splitlines()]


def stage_of(line: str, stages: list[str]) -> str | None:
    """The stage that a line says to begin, or to be skipped."""
    words = line.split()
    begins = len(words) > 1 and ("/runs/" in words[1] or words[1] == "complete,")
    return words[0] if begins and words[0] in stages else None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_every_shape_runs_whole_and_is_skipped_when_it_is_complete(
    workplace: Workplace, parts: Parts, shape: dict[str, str]
) -> None:
    run_all_commands(workplace, parts, shape)
