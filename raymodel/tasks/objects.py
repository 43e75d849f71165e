"""Objects in an image: reading them from a record, and how well they were found.

An object is `{"label": …, "box": [x, y, width, height]}` in pixels from the upper left corner, as
COCO writes boxes.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.tasks.template import FieldTypeError, RecordError, described

Object = dict[str, Any]
_ROUNDING = 1.0  # pixels by which a box may reach beyond its image
MEASURED = ("map", "ap50", "ap75")


def read_objects(value: object, field: str) -> list[Object]:
    """The objects of a record; none where its list is empty.

    `[{label: …, box: [x, y, width, height]}]`, or a list of each, `{label: […], box: […]}`;
    `category` and `bbox` are read as `label` and `box`.

    Raises:
        RecordError: a box has no area, or one of its numbers is not finite.
        FieldTypeError: it holds something else.
    """
    found = _in_rows(value)
    if not isinstance(found, list) or not all(map(_is_object, found)):
        raise FieldTypeError(
            f"the field {field!r} holds {described(value)}; objects are a list of labels with the "
            "box of each in pixels, [{label: …, box: [x, y, width, height]}]. Name the field that "
            "holds them"
        )
    objects: list[Object] = [
        {"label": str(_label(each)).strip(), "box": [float(number) for number in _box(each)]}
        for each in found
    ]
    for each in objects:
        if not each["label"]:
            raise RecordError(f"object without a label in {field!r}", "object without a label")
        if problem := find_wrong_box(each["box"], None):
            raise RecordError(f"{problem} in {field!r}: {each}", f"record with a {problem}")
    return objects


def find_wrong_box(box: Sequence[float], size: tuple[float, float] | None) -> str | None:
    """What is wrong with a box, in the same words for all of a kind.

    Args:
        size: width and height of the image; None where nobody knows.
    """
    x, y, wide, high = box
    if not all(map(math.isfinite, box)):
        return "box whose numbers are not finite"
    if wide <= 0 or high <= 0:
        return "box without an area"
    if size is None:
        return None
    within = -_ROUNDING <= x < size[0] and -_ROUNDING <= y < size[1]
    if within and x + wide <= size[0] + _ROUNDING and y + high <= size[1] + _ROUNDING:
        return None
    return "box that reaches out of its image"


def _in_rows(value: object) -> object:
    """Columns of objects as a list of them; all else as it is."""
    if not isinstance(value, Mapping):
        return value
    columns = {name: each for name, each in value.items() if isinstance(each, list)}
    labels, boxes = _label(columns), _box(columns)
    if labels is None or boxes is None or len(labels) != len(boxes):
        return value
    return [{"label": a, "box": b} for a, b in zip(labels, boxes, strict=True)]


def _label(value: Mapping[str, Any]) -> Any:
    return value.get("label", value.get("category"))


def _box(value: Mapping[str, Any]) -> Any:
    return value.get("box", value.get("bbox"))


def _is_object(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    label, box = _label(value), _box(value)
    return (
        isinstance(label, str | int)
        and isinstance(box, list)
        and len(box) == 4
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in box)
    )


def object_scores(
    found: Sequence[Sequence[Object]], truth: Sequence[Sequence[Object]]
) -> dict[str, float]:
    """COCO's average precision, by pycocotools: `map` over overlaps from 0.5 to 0.95, `ap50`,
    `ap75`; from 0 to 1. Of no true object it is not measured.

    Args:
        found: of each image, with a `score` each.
        truth: the same without scores.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({each["label"] for objects in truth for each in objects})
    if not names:
        return {}
    numbers = {name: number for number, name in enumerate(names, start=1)}
    true = [_row(i, each, numbers) for i, objects in enumerate(truth) for each in objects]
    given = [
        _row(i, each, numbers) | {"score": each["score"]}
        for i, objects in enumerate(found)
        for each in objects
        if each["label"] in numbers
    ]
    if not given:
        return dict.fromkeys(MEASURED, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # which it tells its progress
        known = COCO()
        known.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
            "annotations": [
                row | {"id": i, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
                for i, row in enumerate(true, start=1)
            ],
        }
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(given), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[i]) for i, name in enumerate(MEASURED)}


def _row(image: int, each: Object, numbers: Mapping[str, int]) -> dict[str, Any]:
    return {"image_id": image, "category_id": numbers[each["label"]], "bbox": list(each["box"])}
