"""Measures. `evaluate: {metrics: ["measures:macro_recall"]}` takes it; a gate may name it too.

A measure is given the answers of the model to the held-out examples and the references, both in the
same order, and returns a number. What an answer and a reference are, the task says: of classes
`{"label": …, "probs": […]}` and the name of the right one.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any


def macro_recall(answers: Sequence[dict[str, Any]], references: Sequence[str]) -> float:
    """How much of each class is found, on average over the classes: rare ones count like others."""
    found = defaultdict(list)
    for answer, reference in zip(answers, references, strict=True):
        found[reference].append(answer["label"] == reference)
    return sum(sum(hits) / len(hits) for hits in found.values()) / len(found)


macro_recall.higher_is_better = True
