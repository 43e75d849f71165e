"""A model of one run teaches a student of half its layers in another, which is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from journeys import JobRunner, tiny_job  # type: ignore[import-not-found]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_model_of_another_run_teaches_a_student_of_half_its_layers(
    runner: JobRunner, corpus: Path
) -> None:
    whole = tiny_job(corpus)
    first = {name: whole[name] for name in ("name", "seed", "cluster", "prepare", "pretrain")}
    runner.run("run", str(runner.write(first)))
    distill = {"teacher": "tiny/pretrain", "student": {"layers": 1}}
    finetune = {name: each for name, each in whole["finetune"].items() if name != "adapter"}
    student = {
        **{name: whole[name] for name in ("seed", "cluster", "serve")},
        "name": "student",
        "finetune": finetune | {"distill": distill, "parallel": {"zero": 3}},
        "evaluate": {"metrics": ["perplexity"], "gates": {"perplexity": "< 1000"}},
    }
    path = runner.write(student)
    assert "teacher" in runner.run("plan", str(path))
    output = runner.run("run", str(path))
    assert "answers as 'student'" in output
    made = json.loads((runner.artifact("finetune", "student") / "manifest.json").read_text())
    assert made["content"]["teacher"].startswith("tiny/pretrain (")
    assert made["content"]["layers_of_teacher"] == 1
    assert made["content"]["loss"] < made["content"]["first_loss"]
    mark = (runner.folder / "runs/tiny/pretrain/latest").read_text().strip()
    assert made["parents"]["teacher"] == made["parents"]["base"] == mark
    judged = json.loads((runner.artifact("evaluate", "student") / "manifest.json").read_text())
    assert judged["parents"]["teacher"] == mark
    costs = judged["content"]["costs"]
    assert costs["after"]["size_bytes"] < costs["before"]["size_bytes"]
    assert judged["content"]["base_metrics"]["perplexity"] > 1
    report = (runner.artifact("evaluate", "student") / "report/report.md").read_text()
    assert "| measure | teacher | model |" in report
    assert "complete, skipped" in runner.run("run", str(path))
