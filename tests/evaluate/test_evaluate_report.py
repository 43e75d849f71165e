"""The report puts base and model side by side and survives what models write."""

import json
from types import SimpleNamespace

from raymodel.evaluate.gates import check_gates
from raymodel.evaluate.measure import Found, Measured, Part, combine
from raymodel.evaluate.report import render_report, summary, write_report
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.storage.uri import Location

SAMPLE = {"prompt": "def f():", "answer": "Ends ```.", "reference": "Does f."}
TUNED = Measured(
    metrics={"perplexity": 10.0, "bleu": 3.0, "chrf": None},
    intervals={"bleu": (2.1, 3.9)},
    samples=[SAMPLE],
    rows={"examples": 64},
    signatures={"bleu": "nrefs:1|tok:13a"},
)
BASE = Measured(
    metrics={"perplexity": 90.0, "bleu": 4.0, "chrf": 9.0}, samples=[SAMPLE | {"answer": "x"}]
)
GATES = check_gates(TUNED.metrics, {"perplexity": "< 40", "bleu": "> 5"})


def test_the_better_model_is_named_by_the_direction_of_each_measure():
    lines = render_report(TUNED, BASE, GATES).splitlines()
    assert "| perplexity | 90 | 10 | – | model |" in lines
    assert "| bleu | 4 | 3 | 2.1 … 3.9 | base |" in lines
    assert "| chrf | 9 | not finite or not measured | – | – |" in lines


def test_it_says_how_a_measure_was_taken_that_is_taken_in_several_ways():
    assert "\n`bleu`: nrefs:1|tok:13a\n" in render_report(TUNED, BASE, GATES)


def test_gates_say_whether_they_are_met():
    text = render_report(TUNED, BASE, GATES)
    assert "| perplexity | < 40 | 10 | met |" in text
    assert "| bleu | > 5 | 3 | NOT met |" in text


def test_an_answer_with_backticks_cannot_end_its_block():
    assert "Model\n\n````text\nEnds ```.\n````" in render_report(TUNED, BASE, GATES)


def test_a_long_prompt_shows_its_end():
    sample = SAMPLE | {"prompt": "start" + "." * 900 + "end"}
    text = render_report(Measured(metrics={}, samples=[sample]), None, ())
    assert "start" not in text
    assert "end\n```" in text


def test_both_files_are_written(tmp_path):
    folder = Location.parse(str(tmp_path / "report"))
    write_report(folder, TUNED, BASE, GATES)
    data = (folder / "metrics.json").read_json()
    assert data["metrics"]["chrf"] is None
    assert data["base_metrics"]["perplexity"] == 90.0
    assert data["signatures"] == TUNED.signatures
    assert [gate["passed"] for gate in data["gates"]] == [True, False]
    assert (folder / "report.md").read_text().startswith("# Evaluation")


ANSWERS = [{"label": name, "probs": []} for name in ("a|b", "c\nd", "c\nd")]


def measured_classes():
    """What two processes found of three rows, through JSON and back."""
    found = [
        Found(answers=ANSWERS[start:stop], references=["a|b"] * (stop - start))
        for start, stop in ((0, 1), (1, 3))
    ]
    parts = [Part(found={"examples": each}, slow_paths=[]) for each in found]
    held_out = {"examples": SimpleNamespace(num_rows=3)}
    spec = EvaluateSpec(metrics=("accuracy",))
    tuned = combine("text_classification", parts, held_out, spec)
    assert Measured(**json.loads(json.dumps(tuned.to_dict()))).tables == tuned.tables
    return tuned


def test_a_table_of_all_answers_stands_in_both_files(tmp_path):
    folder = Location.parse(str(tmp_path / "report"))
    write_report(folder, measured_classes(), None, ())
    (table,) = (folder / "metrics.json").read_json()["tables"]
    assert table["rows"] == [["a|b", 1, 2], ["c\nd", 0, 0]]
    lines = (folder / "report.md").read_text().splitlines()
    assert "## Confusion matrix" in lines
    assert "|  | a\\|b | c d |" in lines
    assert "| a\\|b | 1 | 2 |" in lines


def test_the_summary_has_the_base_before_the_model():
    content = {
        "metrics": {"perplexity": 10.0, "f1": 0.5},
        "intervals": {"f1": (0.4, 0.61)},
        "base_metrics": {"perplexity": 90.0},
    }
    assert summary(content) == ["perplexity 90 → 10", "f1 0.5 (0.4–0.61)"]
