"""Every shape of a job runs, is planned, has its states shown and is skipped once complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from one_ray import OneRay  # type: ignore[import-not-found]
from shapes import (  # type: ignore[import-not-found]
    ABSENT,
    OWN,
    all_shapes,
    few_shapes,
    job_of,
    name_of,
    origins,
    sections,
)

from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer, write_tiny_corpus

Parts = dict[str, dict[str, dict[str, Any]]]
SHAPES = list(all_shapes(sections(Path("/nowhere"), 1)))
FEW = few_shapes(SHAPES)


class Jobs:
    """Runs jobs of one name, so that what two of them have in common is made once."""

    def __init__(self, folder: Path, ray: OneRay) -> None:
        self.folder, self.ray = folder, ray
        self.parts: Parts = {}

    def write(self, job: dict[str, Any]) -> str:
        path = self.folder / f"{job['name']}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path.name


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """With a corpus, a classifier in a package, and a run that others take their inputs from."""
    folder = tmp_path_factory.mktemp("shapes")
    corpus = [path.read_text() for path in write_tiny_corpus(folder / "corpus")]
    package = folder / "tiny_models"
    build_tiny_bert().save_pretrained(package / "bert")
    train_tiny_tokenizer(corpus).save_pretrained(package / "bert")
    (package / "__init__.py").touch()
    records = [
        {"text": f"{number} {text[:60]}", "label": ("no", "yes")[number % 2]}
        for number, text in enumerate(corpus)
    ]
    (folder / "labelled.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    with OneRay(folder) as ray:
        jobs = Jobs(folder, ray)
        given = {"prepare": OWN, "pretrain": OWN}
        parts = sections(folder, ray.port)
        ray.run("run", jobs.write(job_of(given, parts) | {"name": "given"}))
        jobs.parts = sections(folder, ray.port)
        yield jobs


def test_every_stage_has_a_section_here_for_every_place_its_input_may_come_from() -> None:
    known = {stage: set(found) for stage, found in sections(Path("/nowhere"), 1).items()}
    assert known == {stage: set(found) for stage, found in origins().items()}


def test_the_few_shapes_have_every_set_of_stages_and_every_origin() -> None:
    def stages(shapes: list[dict[str, str]]) -> set[frozenset[str]]:
        return {frozenset(s for s, origin in shape.items() if origin != ABSENT) for shape in shapes}

    def places(shapes: list[dict[str, str]]) -> set[tuple[str, str]]:
        return {pair for shape in shapes for pair in shape.items()}

    assert stages(FEW) == stages(SHAPES)
    assert places(FEW) == places(SHAPES)


def run_all_commands(jobs: Jobs, shape: dict[str, str]) -> None:
    job = jobs.write(job_of(shape, jobs.parts))
    stages = [stage for stage, origin in shape.items() if origin != ABSENT]
    if "finetune" in stages:
        stages.insert(stages.index("finetune"), "examples")
    ray = jobs.ray

    ray.run("check", job)
    assert "not known" not in ray.run("plan", job)
    said = ray.run("run", job)
    assert stages == [stage for line in said.splitlines() if (stage := stage_of(line, stages))]
    planned = ray.run("plan", job).splitlines()[1 : 1 + len(stages)]
    assert [line.split()[:2] for line in planned] == [[stage, "complete"] for stage in stages]
    listed = [line.split()[1:3] for line in ray.run("status", "runs").splitlines()]
    assert all([stage, "complete"] in listed for stage in stages)
    again = ray.run("run", job)
    assert again.count("complete, skipped") == len(stages), again


def stage_of(line: str, stages: list[str]) -> str | None:
    """The stage that a line says to begin, or to be skipped."""
    words = line.split()
    begins = len(words) > 1 and ("/runs/" in words[1] or words[1] == "complete,")
    return words[0] if begins and words[0] in stages else None


@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", FEW, ids=name_of)
def test_a_shape_runs_whole_and_is_skipped_when_it_is_complete(
    jobs: Jobs, shape: dict[str, str]
) -> None:
    run_all_commands(jobs, shape)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in FEW], ids=name_of)
def test_every_other_shape_does_too(jobs: Jobs, shape: dict[str, str]) -> None:
    run_all_commands(jobs, shape)
