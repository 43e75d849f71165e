"""The report puts base and model side by side and survives what models write."""

from raymodel.evaluate.gates import check_gates
from raymodel.evaluate.measure import Measured
from raymodel.evaluate.report import render_report, summary, write_report
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


def test_the_summary_has_the_base_before_the_model():
    content = {
        "metrics": {"perplexity": 10.0, "f1": 0.5},
        "intervals": {"f1": (0.4, 0.61)},
        "base_metrics": {"perplexity": 90.0},
    }
    assert summary(content) == ["perplexity 90 → 10", "f1 0.5 (0.4–0.61)"]
