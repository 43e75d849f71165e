"""Which class is taken for which, whole where there is room, else the most confused pairs."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from raymodel.tasks import TASKS
from raymodel.tasks.confusion import MOST_CLASSES, MOST_PAIRS, confusion_table


def drawn(num_classes: int, rows: int = 500) -> tuple[list[str], list[str]]:
    """Answers, of which about half are right, and what is true."""
    chance = np.random.default_rng(num_classes)
    truth, other = chance.integers(0, num_classes, (2, rows))
    answered = np.where(chance.random(rows) < 0.5, truth, other)
    return [f"c{n:03d}" for n in answered], [f"c{n:03d}" for n in truth]


@pytest.mark.parametrize("num_classes", [2, 7, MOST_CLASSES])
def test_up_to_twenty_classes_are_a_matrix_as_scikit_learn_has_it(num_classes):
    answered, truth = drawn(num_classes)
    table = confusion_table(answered, truth)
    names = sorted({*answered, *truth})
    assert table.head == ["", *names]
    assert [row[0] for row in table.rows] == names
    counts = [row[1:] for row in table.rows]
    assert counts == confusion_matrix(truth, answered, labels=names).tolist()


def test_of_more_classes_there_are_the_pairs_that_are_confused_most():
    answered, truth = drawn(21, rows=3_000)
    answered += ["c003"] * 90
    truth += ["c017"] * 90
    table = confusion_table(answered, truth)
    assert len(table.rows) == MOST_PAIRS
    right, said, count, of_class = table.rows[0]
    pairs = list(zip(truth, answered, strict=True))
    assert (right, said) == ("c017", "c003")
    assert (count, of_class) == (pairs.count((right, said)), truth.count(right))
    found = [row[2] for row in table.rows]
    assert found == sorted(found, reverse=True)
    assert "Of 21 classes" in table.note


def test_the_line_for_the_terminal_names_three_pairs_and_nothing_where_all_is_right():
    answered, truth = ["a", "b", "b", "c", "a"], ["a", "a", "a", "b", "c"]
    brief = confusion_table(answered, truth).brief
    assert brief == (
        "most often taken for another: a for b (2 of 3), b for c (1 of 1), c for a (1 of 1)"
    )
    assert confusion_table(truth, truth).brief == ""


@pytest.mark.parametrize(
    "name", ["text_classification", "image_classification", "audio_classification"]
)
def test_every_task_of_one_class_has_the_table_and_others_have_none(name):
    answers = [{"label": "x", "probs": [0.9, 0.1]}, {"label": "y", "probs": [0.1, 0.9]}]
    (table,) = TASKS[name]().tables(answers, ["x", "x"])
    assert table.rows == [["x", 1, 1], ["y", 0, 0]]
    assert TASKS["multi_label_classification"]().tables([], []) == []
