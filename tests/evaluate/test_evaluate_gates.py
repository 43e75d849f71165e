"""Gates: conditions on measures."""

import math

import pytest

from raymodel.evaluate.gates import GateResult, check_gates


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
