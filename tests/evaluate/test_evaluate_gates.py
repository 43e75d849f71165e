"""Gates: conditions on measures, and what cannot be asked of a task."""

import math

import pytest

from raymodel.errors import SpecError
from raymodel.evaluate.gates import GateResult, check_gates, check_measures
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.tasks import get_task


@pytest.mark.parametrize(
    ("condition", "passed"),
    [("< 40", False), ("<= 40", True), ("> 40", False), (">= 40", True), (">-1.5e2", True)],
)
def test_each_comparison_holds_at_its_border_as_it_reads(condition, passed):
    [result] = check_gates({"perplexity": 40.0}, {"perplexity": condition})
    assert result == GateResult(name="perplexity", value=40.0, condition=condition, passed=passed)


@pytest.mark.parametrize("metrics", [{}, {"bleu": None}, {"bleu": math.nan}])
def test_a_measure_that_is_missing_or_not_a_number_fails_its_gate(metrics):
    for condition in ("> 0", "< 0"):
        [result] = check_gates(metrics, {"bleu": condition})
        assert not result.passed


def test_no_gates_means_nothing_fails():
    assert check_gates({"bleu": 1.0}, {}) == ()


def test_a_measure_of_another_task_is_refused_with_those_of_this_one():
    spec = EvaluateSpec(metrics=["perplexity"])
    check_measures(spec, get_task("causal_lm"))
    with pytest.raises(SpecError, match=r"'perplexity' is no measure.*accuracy, f1"):
        check_measures(spec, get_task("text_classification"))


def test_a_gate_on_a_measure_that_is_not_taken_is_refused():
    spec = EvaluateSpec(metrics=["perplexity"], gates={"text_perplexity": "< 9", "bleu": "> 1"})
    with pytest.raises(SpecError, match="'bleu' is not measured"):
        check_measures(spec, get_task("causal_lm"))
