"""A measure of a user's own is taken beside the task's, of all answers of all processes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from raymodel.evaluate.gates import check_gates
from raymodel.evaluate.measure import Found, Part, combine
from raymodel.evaluate.report import render_report
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.tasks.own import measure_named
from raymodel.tasks.text_classification import TextClassification

TEMPLATES = Path(__file__).parents[2] / "docs/own"
RECALL = "measures:macro_recall"


def test_a_measure_of_ones_own_is_taken_gated_and_reported(own_folder):
    own_folder(TEMPLATES)
    spec = EvaluateSpec(metrics=("accuracy", RECALL), gates={RECALL: "> 0.6"})
    assert measure_named(TextClassification, RECALL).needs == "answers"
    found = [
        Found(answers=[{"label": "a"}] * len(right), references=right)
        for right in (["a", "a", "a"], ["b"])
    ]
    parts = [Part(found={"examples": each}, slow_paths=[]) for each in found]
    rows = {"examples": SimpleNamespace(num_rows=4)}
    measured = combine("text_classification", parts, rows, spec)  # type: ignore[arg-type]
    assert measured.metrics == pytest.approx({"accuracy": 0.75, RECALL: 0.5})
    [gate] = check_gates(measured.metrics, spec.gates)
    assert not gate.passed
    assert f"| {RECALL} | 0.5 | 0.5 | – |" in render_report(measured, measured, [gate])
