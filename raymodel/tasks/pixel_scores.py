"""How well the classes of pixels were found, from counts that add up over images.

Of a class: T pixels that are truly of it, F that were found to be, B that are both. Ignored pixels
are in none. Its intersection over union is B / (T + F - B) (Jaccard's index, as PASCAL VOC measures
segmentation, doi:10.1007/s11263-009-0275-4); the mean is over the classes that occur in either, and
the accuracy of pixels is the sum of B over that of T (arXiv:1411.4038).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raymodel.modality.mask import Classes

_TRUE, _FOUND, _BOTH = "true", "found", "both"


def pixel_counts(truth: Classes, found: Classes, names: Sequence[str]) -> dict[str, float]:
    """T, F and B of one image, by `true NAME` and so on; what is 0 is left out.

    Args:
        truth: the number of a class in each pixel, or `IGNORED`. (H, W)
        found: the same without ignored ones.
        names: of the classes, by their number.
    """
    import numpy as np

    from raymodel.modality.spec import IGNORED

    counts = {}
    is_measured = truth != IGNORED
    true, given = truth[is_measured], found[is_measured]
    for what, pixels in ((_TRUE, true), (_FOUND, given), (_BOTH, true[true == given])):
        for number, count in enumerate(np.bincount(pixels).tolist()):
            if count:
                counts[f"{what} {names[number]}"] = float(count)
    return counts


def class_ious(images: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Intersection over union of each class that occurs in either, sorted by name."""
    total = _added(images)
    names = sorted({key.partition(" ")[2] for key in total})
    return {
        name: _of(total, _BOTH, name)
        / (_of(total, _TRUE, name) + _of(total, _FOUND, name) - _of(total, _BOTH, name))
        for name in names
    }


def pixel_scores(images: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`mean_iou` and `pixel_accuracy`, from 0 to 1, of the counts of `pixel_counts`."""
    ious, total = class_ious(images).values(), _added(images)
    true, both = (
        sum(count for key, count in total.items() if key.startswith(f"{what} "))
        for what in (_TRUE, _BOTH)
    )
    return {
        "mean_iou": sum(ious) / len(ious) if ious else 0.0,
        "pixel_accuracy": both / true if true else 0.0,
    }


def _added(images: Iterable[Mapping[str, float]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counts in images:
        total.update(counts)
    return total


def _of(total: Mapping[str, float], what: str, name: str) -> float:
    return total.get(f"{what} {name}", 0)
