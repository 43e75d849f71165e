"""Object detection: the box and the class of each object in an image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample
from raymodel.tasks.fields import Field
from raymodel.tasks.label import number_of
from raymodel.tasks.objects import MEASURED, find_wrong_box, object_scores
from raymodel.tasks.pictures import GREY_SQUARE, pixels_for
from raymodel.tasks.whole_image import WholeImageTask

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.boxes import Boxes
    from raymodel.tasks.spec.image import ObjectDetectionSpec

_FAMILIES = ("detr", "table-transformer", "yolos")
"""Whose loss is that of `matching.py`. Their successors take others, and no class for nothing."""
_SURE = 0.5
"""The score from which a line for people tells of an object."""
_SHOWN = 5


class ObjectDetection(WholeImageTask):
    """A network that gives a fixed number of boxes, each with a class or nothing
    (`AutoModelForObjectDetection`, of the family of DETR)."""

    name = "object_detection"
    auto_class = "AutoModelForObjectDetection"
    architectures = ("ForObjectDetection",)
    pipeline_tag = "object-detection"
    fields = MappingProxyType(
        {
            "image": Field(kind="image", default="image"),
            "objects": Field(kind="objects", default="objects", is_target=True),
        }
    )
    # Which of all boxes come first decides the precision: no image has one by itself.
    measures = MappingProxyType(
        {
            name: Measure(needs="answers", higher_is_better=True, is_of_rows=False)
            for name in MEASURED
        }
    )
    answers = "objects"

    @property
    def _said(self) -> ObjectDetectionSpec:
        from raymodel.tasks.spec.image import ObjectDetectionSpec

        return cast("ObjectDetectionSpec", self.spec or ObjectDetectionSpec())

    def check_model(self, config: PretrainedConfig) -> None:
        """Raises ValueError for a model that learns by another loss."""
        if config.model_type not in _FAMILIES:
            raise ValueError(
                f"{self.name} trains models of {', '.join(_FAMILIES)}, and this one is of "
                f"{config.model_type}, which learns by another loss; take one of those"
            )

    def trim(self, model: PreTrainedModel) -> None:
        """Lets all of a model learn: transformers' DETR comes with its ResNet frozen, which of a
        fresh model is noise."""
        model.requires_grad_(True)

    def schema(self) -> pa.Schema:
        """`image` binary, encoded as in its source; of each object in it the number of its class in
        `labels` (list<int32>), and four numbers in `boxes` (list<float>): left, top, right, bottom,
        as shares of the image."""
        import pyarrow as pa

        return pa.schema(
            [
                ("image", pa.binary()),
                ("labels", pa.list_(pa.int32())),
                ("boxes", pa.list_(pa.float64())),
            ]
        )

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The encoded image, and its objects as shares of it.

        Raises:
            ValueError: a label is not one of `labels`.
        """
        from raymodel.modality.image_decode import ImageError

        try:
            high, wide, _ = self.processor.decode(values["image"]).shape
        except ImageError as error:
            return LeftOut(error.reason)
        features = {"image": values["image"]}
        if "objects" not in values:
            return Example(features=features)
        labels, boxes = list[int](), list[float]()
        for each in values["objects"]:
            if problem := find_wrong_box(each["box"], (wide, high)):
                return LeftOut(f"image with a {problem}")
            x, y, box_wide, box_high = each["box"]
            shares = (x / wide, y / high, (x + box_wide) / wide, (y + box_high) / high)
            boxes += [min(max(share, 0.0), 1.0) for share in shares]
            labels.append(number_of(each["label"], self.labels))
        return Example(features=features | {"labels": labels, "boxes": boxes})

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, channels, height, width); where rows have objects, `labels` (B, N) and
        `boxes` (B, N, 4), see `matching.set_loss`."""
        import torch

        processor, images = self.processor, list(rows["image"])
        threads = torch.get_num_threads()
        if "labels" not in rows:
            return {"pixel_values": torch.from_numpy(processor.pixels_of(images, threads=threads))}
        pixels, boxes = processor.pixels_with_boxes(
            images, _boxes_of(rows), self._said.augment, draw, threads=threads
        )
        return {"pixel_values": torch.from_numpy(pixels), **self._padded(boxes)}

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the images, see `matching.py`."""
        from raymodel.tasks.matching import Weights, set_loss

        output = model(pixel_values=pixels_for(model, batch))
        weights = Weights.of(getattr(model, "module", model).config)
        return set_loss(output.logits, output.pred_boxes, batch, weights)

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`objects`, as many as the model has queries, the surest first: each has the `label` that
        is most probable, its probability as `score`, and its `box`: x and y of the upper left
        corner, width and height, in pixels of the image."""
        import torch

        from raymodel.tasks.classes import class_names

        names, sizes = class_names(model), [self._size(data) for data in rows["image"]]
        pixels = self.collate({"image": rows["image"]})["pixel_values"]
        with torch.inference_mode():
            output = model(pixel_values=pixels.to(model.device, model.dtype))
            scores_BQ, labels_BQ = output.logits.float().softmax(-1)[..., :-1].max(-1)
        found = zip(
            scores_BQ.tolist(), labels_BQ.tolist(), output.pred_boxes.tolist(), sizes, strict=True
        )
        return [
            {
                "objects": [
                    {"label": names[label], "score": prob, "box": _in_pixels(box, size)}
                    for prob, label, box in sorted(
                        zip(probs, labels, boxes, strict=True), key=lambda each: -each[0]
                    )
                ]
            }
            for probs, labels, boxes, size in found
        ]

    def references(self, rows: Columns) -> list[Any]:
        """`objects`, as of answers, without scores."""
        found = []
        for data, boxes in zip(rows["image"], _boxes_of(rows), strict=True):
            size = self._size(data)
            pairs = zip(boxes.labels.tolist(), boxes.centred().tolist(), strict=True)
            found.append(
                {
                    "objects": [
                        {"label": self.labels[label], "box": _in_pixels(box, size)}
                        for label, box in pairs
                    ]
                }
            )
        return found

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """COCO's average precision."""
        found, truth = ([each["objects"] for each in side] for side in (answers, references))
        return object_scores(found, truth)

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Which objects both see; the image itself is in the request."""
        told = {"answer": self.answer_text(answer), "reference": self.answer_text(reference)}
        return Sample.of_file("image", "image", rows, index, **told)

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A grey square."""
        return {"image": GREY_SQUARE}

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `dog (97%) at 10, 20, cat (80%) at 200, 31`."""
        sure = [each for each in answer["objects"] if _probability(each) >= _SURE]
        shown = [
            each["label"]
            + (f" ({each['score']:.0%})" if "score" in each else "")
            + f" at {each['box'][0]:.0f}, {each['box'][1]:.0f}"
            for each in sure[:_SHOWN]
        ]
        return ", ".join(shown + ["…"] * (len(sure) > _SHOWN)) or "nothing sure"

    def _size(self, data: Any) -> tuple[int, int]:
        """Height and width of an encoded image."""
        high, wide, _ = self.processor.decode(bytes(data)).shape
        return high, wide

    def _padded(self, boxes: Sequence[Boxes]) -> dict[str, torch.Tensor]:
        import torch

        from raymodel.tasks.loss import IGNORED

        most = max(1, *(len(each.labels) for each in boxes))
        labels = torch.full((len(boxes), most), IGNORED)
        places = torch.zeros((len(boxes), most, 4))
        labels[:, 0] = len(self.labels)  # nothing, where no object takes its place
        for row, each in enumerate(boxes):
            labels[row, : len(each.labels)] = torch.from_numpy(each.labels)
            places[row, : len(each.labels)] = torch.from_numpy(each.centred())
        return {"labels": labels, "boxes": places}


def _boxes_of(rows: Columns) -> list[Boxes]:
    """The objects of rows."""
    import numpy as np

    from raymodel.modality.boxes import Boxes

    return [
        Boxes(np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64))
        for boxes, labels in zip(rows["boxes"], rows["labels"], strict=True)
    ]


def _in_pixels(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """x, y, width, height, within the image, of a middle and a size as shares of it."""
    (x, y, wide, high), (image_high, image_wide) = box, size
    left, right = (min(max(x + side * wide / 2, 0.0), 1.0) * image_wide for side in (-1, 1))
    top, bottom = (min(max(y + side * high / 2, 0.0), 1.0) * image_high for side in (-1, 1))
    return [left, top, right - left, bottom - top]


def _probability(found: Mapping[str, Any]) -> float:
    """Of an object of an answer; a reference is sure."""
    return float(found.get("score", 1.0))
