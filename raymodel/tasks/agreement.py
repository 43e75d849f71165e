"""How well what is predicted agrees with what is true.

Shapes: N examples, C classes. Classes are numbers, (N,), or of several an array of flags, (N, C).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

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


def label_set_scores(
    predicted: Sequence[Collection[str]], truth: Sequence[Collection[str]], num_classes: int
) -> dict[str, float]:
    """Of names of classes, any number for each example, out of `num_classes`:

    `micro_f1`, of all decisions together, and `macro_f1`, the mean of the classes' F1, over those
    that occur in either; `subset_accuracy`, the share of examples of which every class is right;
    `hamming_loss`, the share of decisions that are wrong. A class that is never both true and
    predicted has F1 = 0, and so have all together where none occurs, as in scikit-learn.
    """
    names = sorted({name for each in (*truth, *predicted) for name in each})
    truth_NC, predicted_NC = _flags(truth, names), _flags(predicted, names)
    hits_C = np.sum(truth_NC & predicted_NC, axis=0)
    marked_C = np.sum(truth_NC, axis=0) + np.sum(predicted_NC, axis=0)
    wrong_NC = truth_NC != predicted_NC
    return {
        "micro_f1": float(2 * hits_C.sum() / max(1, marked_C.sum())),
        "macro_f1": float(np.mean(2 * hits_C / marked_C)) if names else 0.0,
        "subset_accuracy": float(np.mean(~wrong_NC.any(axis=1))),
        "hamming_loss": float(wrong_NC.sum() / (len(truth) * max(num_classes, len(names)))),
    }


def _flags(sets: Sequence[Collection[str]], names: Sequence[str]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(names)}
    flags_NC = np.zeros((len(sets), len(names)), dtype=bool)
    for flags_C, each in zip(flags_NC, sets, strict=True):
        flags_C[[numbers[name] for name in each]] = True
    return flags_NC


def number_scores(predicted: Sequence[float], truth: Sequence[float]) -> dict[str, float]:
    """Of numbers: `mse` and `mae`, the mean squared and absolute error; `pearson` and `spearman`,
    the correlation of the numbers and of their ranks. Of equal numbers there is no correlation."""
    truth_N, predicted_N = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    error_N = predicted_N - truth_N
    return {
        "mse": float(np.mean(error_N**2)),
        "mae": float(np.mean(np.abs(error_N))),
        "pearson": _correlation(truth_N, predicted_N),
        "spearman": _correlation(_ranks(truth_N), _ranks(predicted_N)),
    }


def _correlation(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """NaN where either does not vary."""
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    scale = float(np.linalg.norm(a_N) * np.linalg.norm(b_N))
    return float(a_N @ b_N) / scale if scale > 0 else float("nan")


def _ranks(values_N: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of their places."""
    _, place_N, count = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[place_N]
