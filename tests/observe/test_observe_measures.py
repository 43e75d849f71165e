"""Comparisons of measures: NaN wins nothing, and there is one place for them."""

import ast
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import raymodel
from raymodel.errors import NonFiniteLossError
from raymodel.observe.measures import find_best, holds, is_better
from raymodel.tune.run import _best, _Diverged

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "than", "lower_wins", "higher_wins"),
    [
        (1.0, 2.0, True, False),
        (2.0, 1.0, False, True),
        (1.0, 1.0, False, False),
        (1.0, NAN, True, True),
        (1.0, None, True, True),
        (1.0, -INF, True, True),
        (NAN, 1.0, False, False),
        (-INF, 1.0, False, False),
        (INF, 1.0, False, False),
        (None, 1.0, False, False),
        (NAN, None, False, False),
        (None, NAN, False, False),
    ],
)
def test_a_number_beats_none_and_nothing_else_beats_a_number(
    value: float | None, than: float | None, lower_wins: bool, higher_wins: bool
) -> None:
    assert is_better(value, than, higher=False) is lower_wins
    assert is_better(value, than, higher=True) is higher_wins


@pytest.mark.parametrize("worthless", [NAN, INF, -INF, None])
def test_the_best_is_a_number_wherever_the_others_stand(worthless: float | None) -> None:
    for values in ([worthless, 1.0, 2.0], [1.0, worthless, 2.0], [2.0, 1.0, worthless]):
        assert find_best(values, lambda value: value, higher=False) == 1.0
        assert find_best(values, lambda value: value, higher=True) == 2.0
    assert find_best([worthless, worthless], lambda value: value, higher=True) is None


def test_the_first_of_equals_is_the_best() -> None:
    assert find_best([(0, 2.0), (1, 1.0), (2, 1.0)], lambda pair: pair[1], higher=False) == (1, 1.0)


@pytest.mark.parametrize("condition", ["<", "<=", ">", ">="])
def test_what_is_not_a_number_meets_no_condition(condition: str) -> None:
    assert not any(holds(value, condition, 0.0) for value in (NAN, INF, -INF, None))
    assert holds(1.0, condition, 1.0) == ("=" in condition)


class Trials(list[SimpleNamespace]):
    """As Tune gives them."""

    errors = ()


def trial(loss: float, step: int = 6) -> SimpleNamespace:
    return SimpleNamespace(metrics={"training_iteration": 3, "step": step, "validation_loss": loss})


def test_a_trial_whose_loss_is_nan_does_not_win_a_sweep() -> None:
    sweep, plan = SimpleNamespace(metric="validation_loss"), SimpleNamespace(total_steps=6)
    trials = Trials([trial(NAN), trial(1.0)])
    assert _best(trials, sweep, plan) is trials[1]
    for last_step in (6, 2):  # it came to its end, or was stopped
        with pytest.raises(NonFiniteLossError, match="not finite in 2 of 2 trials"):
            _best(Trials([trial(NAN, last_step), trial(INF, last_step)]), sweep, plan)


@pytest.mark.parametrize(("loss", "stops"), [(NAN, True), (INF, True), (1.0, False)])
def test_a_trial_is_stopped_once_its_loss_is_no_number(loss: float, stops: bool) -> None:
    """By the scheduler's comparisons it would go on for ever."""
    stopper = pickle.loads(pickle.dumps(_Diverged("validation_loss")))
    assert stopper("a", trial(loss).metrics) is stops
    assert not stopper("a", {"step": 1})  # before the first validation
    assert not stopper.stop_all()


# ---- no comparison elsewhere ---------------------------------------------------------------------

_FOLDERS = ("train", "tune", "evaluate", "observe", "tasks", "serve")
_MEASURES = re.compile(
    r"loss(?!_scale)|\bmetrics\b|measure|perplexity|bits_per_byte|bleu|chrf|accuracy|\bf1\b|score"
)
_ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_CALLS = {"min", "max", "sorted", "sort", "argmin", "argmax", "lt", "le", "gt", "ge", "nsmallest"}


def comparisons(source: str) -> Iterator[str]:
    """What orders something that a name or a text in it calls a measure."""
    for node in ast.walk(ast.parse(source)):
        orders = isinstance(node, ast.Compare) and any(isinstance(op, _ORDERS) for op in node.ops)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            orders = name in _CALLS
        if orders and _MEASURES.search(segment := ast.unparse(node)):
            yield segment


def test_measures_are_compared_in_one_module_alone() -> None:
    package = Path(raymodel.__file__).parent
    files = [file for folder in _FOLDERS for file in (package / folder).rglob("*.py")]
    found = {
        f"{file.relative_to(package)}: {segment}"
        for file in [*files, *package.glob("*.py")]
        if file.name != "measures.py"
        for segment in comparisons(file.read_text())
    }
    assert not found, "compare with observe/measures.py, which knows NaN and the direction"


@pytest.mark.parametrize(
    "source",
    [
        "min(trials, key=lambda trial: trial.metrics[sweep.metric])",
        "best is None or loss < best.state['validation_loss']",
        "sorted(runs, key=lambda run: run['perplexity'])",
        "numpy.argmin(validation_losses)",
    ],
)
def test_a_new_comparison_would_be_found(source: str) -> None:
    assert list(comparisons(source))
