"""How well predicted classes agree with the true ones. Class numbers, shape (N,)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def accuracy(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Share of examples whose class is right."""
    return float(np.mean(truth_N == predicted_N))


def macro_f1(truth_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Mean of the classes' F1, over the classes that occur in either array.

    Each class counts the same, however rare; a class that is never both true and predicted has
    F1 = 0, as in scikit-learn.
    """
    scores = []
    for label in np.union1d(truth_N, predicted_N):
        hits = np.sum((truth_N == label) & (predicted_N == label))
        scores.append(2 * hits / (np.sum(truth_N == label) + np.sum(predicted_N == label)))
    return float(np.mean(scores))


def label_scores(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """`accuracy` and macro `f1` of names of classes."""
    _, numbers = np.unique(np.asarray([*truth, *predicted], dtype=object), return_inverse=True)
    truth_N, predicted_N = numbers[: len(truth)], numbers[len(truth) :]
    return {"accuracy": accuracy(truth_N, predicted_N), "f1": macro_f1(truth_N, predicted_N)}
