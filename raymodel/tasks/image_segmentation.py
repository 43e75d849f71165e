"""Image segmentation: one class of a fixed set for each pixel of an image.

Shapes: B rows, C classes, H and W of what the model is shown, h and w of what it gives.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from raymodel.modality.spec import IGNORED
from raymodel.tasks.base import (
    Answer,
    Columns,
    Example,
    LeftOut,
    Limits,
    Measure,
    Reading,
    Sample,
    Table,
)
from raymodel.tasks.fields import Field
from raymodel.tasks.pictures import GREY_SQUARE, pixels_for
from raymodel.tasks.pixel_scores import class_ious, pixel_counts, pixel_scores
from raymodel.tasks.whole_image import WholeImageTask

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.mask import Classes
    from raymodel.tasks.spec.image import ImageSegmentationSpec

_SHOWN = 4
"""Classes of an answer in a line."""


class ImageSegmentation(WholeImageTask):
    """A network that gives logits for a grid of places (`AutoModelForSemanticSegmentation`), which
    are scaled to the pixels."""

    name = "image_segmentation"
    auto_class = "AutoModelForSemanticSegmentation"
    architectures = ("ForSemanticSegmentation",)
    pipeline_tag = "image-segmentation"
    fields = MappingProxyType(
        {
            "image": Field(kind="image", default="image"),
            "mask": Field(kind="mask", default="mask", is_target=True),
        }
    )
    measures = MappingProxyType(
        {
            "mean_iou": Measure(needs="readings", higher_is_better=True),
            "pixel_accuracy": Measure(needs="readings", higher_is_better=True),
        }
    )
    answers = "mask"
    no_target = IGNORED

    @property
    def _said(self) -> ImageSegmentationSpec:
        from raymodel.tasks.spec.image import ImageSegmentationSpec

        return cast("ImageSegmentationSpec", self.spec or ImageSegmentationSpec())

    def schema(self) -> pa.Schema:
        """`image` binary, encoded as in its source; `mask` binary, a grey PNG of the numbers of
        the classes, 255 where a pixel is ignored."""
        import pyarrow as pa

        return pa.schema([("image", pa.binary()), ("mask", pa.binary())])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The encoded image, and its mask in the numbers of the classes."""
        from raymodel.modality.image_decode import ImageError
        from raymodel.modality.mask import decode_mask, encode_mask

        try:
            high, wide, _ = self.processor.decode(values["image"]).shape
            if "mask" not in values:
                return Example(features={"image": values["image"]})
            mask = decode_mask(values["mask"])
        except ImageError as error:
            return LeftOut(error.reason)
        if mask.shape != (high, wide):
            return LeftOut("mask of another size than its image")
        numbers = self._numbered(mask)
        if isinstance(numbers, LeftOut):
            return numbers
        found = self._occurring(numbers)
        if not found:
            return LeftOut("mask in which every pixel is ignored")
        features = {"image": values["image"], "mask": encode_mask(numbers)}
        return Example(features=features, classes=tuple(found))

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, channels, H, W); `labels` (B, H, W) uint8, where rows have masks."""
        import torch

        processor, images = self.processor, list(rows["image"])
        threads = torch.get_num_threads()
        if "mask" not in rows:
            return {"pixel_values": torch.from_numpy(processor.pixels_of(images, threads=threads))}
        masks = [_decoded(data) for data in rows["mask"]]
        pixels, classes = processor.pixels_with_masks(
            images, masks, self._said.augment, draw, threads=threads
        )
        return {"pixel_values": torch.from_numpy(pixels), "labels": torch.from_numpy(classes)}

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the pixels that are not ignored."""
        import torch

        from raymodel.tasks.loss import IGNORED as NO_TARGET
        from raymodel.tasks.loss import cross_entropy_sum

        labels = batch["labels"].long()
        logits = _scaled(model(pixel_values=pixels_for(model, batch)).logits, labels.shape[1:])
        targets = torch.where(labels == IGNORED, NO_TARGET, labels)
        # In memory the classes of a pixel lie together, so that this copies nothing.
        return cross_entropy_sum(logits.permute(0, 2, 3, 1).flatten(0, 2), targets.flatten())

    def readings(self, model: PreTrainedModel, rows: Columns) -> list[Reading]:
        """How many pixels of each class are so, were found, and are both, in the image's size."""
        names = _class_names(model)
        masks = [_decoded(data) for data in rows["mask"]]
        found = self._find(model, rows, [mask.shape for mask in masks])
        return [pixel_counts(*pair, names) for pair in zip(masks, found, strict=True)]

    def measure_readings(self, readings: Sequence[Reading]) -> dict[str, float]:
        """`mean_iou` and `pixel_accuracy`."""
        return pixel_scores(readings)

    def tables(
        self,
        answers: Sequence[Answer],
        references: Sequence[Any],
        readings: Sequence[Reading] = (),
    ) -> list[Table]:
        """The overlap of each class, the least first."""
        ious = sorted(class_ious(readings).items(), key=lambda each: each[1])
        worst = ", ".join(f"{name} {iou:.2f}" for name, iou in ious[:_SHOWN])
        return [
            Table(
                title="By class",
                brief=f"least overlap: {worst}" if ious else "",
                note="Intersection over union of the pixels of each class, the least first.",
                head=["class", "iou"],
                rows=[[name, f"{iou:.4f}"] for name, iou in ious],
            )
        ]

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`mask`, a PNG in base64 of the image's size, whose values are the numbers of classes and
        whose palette is for the eye; and `classes`, those that occur, the largest first, each with
        its `number`, its `label`, the `share` of the pixels, and its `color` in the palette."""
        from raymodel.modality.mask import encode_in_colours

        names = _class_names(model)
        sizes = [self.processor.decode(bytes(data)).shape[:2] for data in rows["image"]]
        return [
            {
                "mask": base64.b64encode(encode_in_colours(found)).decode(),
                "classes": _shares(found, names),
            }
            for found in self._find(model, rows, sizes)
        ]

    def references(self, rows: Columns) -> list[Any]:
        """`classes`, as of answers."""
        return [{"classes": _shares(_decoded(data), self.labels)} for data in rows["mask"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """None: what is measured needs the masks, of which `readings` are taken."""
        return {}

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Which classes both see; the image itself is in the request."""
        texts = (self.answer_text(each) for each in (answer, reference))
        told = dict(zip(("answer", "reference"), texts, strict=True))
        return Sample.of_file("image", "image", rows, index, **told)

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A grey square."""
        return {"image": GREY_SQUARE}

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `road 61%, sky 30%, car 9%`."""
        classes = answer["classes"]
        shown = [f"{each['label']} {each['share']:.0%}" for each in classes[:_SHOWN]]
        return ", ".join(shown + ["…"] * (len(classes) > _SHOWN))

    @cached_property
    def _number_of(self) -> Mapping[int, int]:
        """Value of a pixel → number of its class."""
        values = self._said.classes
        known = {values[name]: number for number, name in enumerate(self.labels)}
        ignore = self._said.ignore
        return known if ignore is None else known | {ignore: IGNORED}

    def _numbered(self, mask: NDArray[np.int64]) -> Classes | LeftOut:
        import numpy as np

        values, places = np.unique(mask, return_inverse=True)
        unknown = [value for value in values.tolist() if value not in self._number_of]
        if unknown:
            return LeftOut(f"mask with the value {unknown[0]}, which is of no class")
        numbers = np.array([self._number_of[value] for value in values.tolist()], np.uint8)
        return numbers[places.reshape(mask.shape)]

    def _occurring(self, numbers: Classes) -> list[str]:
        import numpy as np

        return [self.labels[number] for number in np.unique(numbers[numbers != IGNORED]).tolist()]

    def _find(
        self, model: PreTrainedModel, rows: Columns, sizes: Sequence[tuple[int, ...]]
    ) -> list[Classes]:
        """The most probable class of each pixel, of images that are as large as they are."""
        import numpy as np
        import torch

        pixels = self.collate({"image": rows["image"]})["pixel_values"]
        with torch.inference_mode():
            logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits
            found = [  # one by one: of a large image all logits are large
                _scaled(each[None], size)[0].argmax(0).cpu().numpy()
                for each, size in zip(logits, sizes, strict=True)
            ]
        return [classes.astype(np.uint8) for classes in found]


def _scaled(logits_BChw: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, C, H, W) in fp32, the classes of a pixel together in memory."""
    import torch
    import torch.nn.functional as F

    logits = logits_BChw.float().contiguous(memory_format=torch.channels_last)
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _decoded(data: Any) -> Classes:
    """A mask as it lies in a row."""
    import numpy as np

    from raymodel.modality.mask import decode_mask

    return decode_mask(bytes(data)).astype(np.uint8)


def _class_names(model: PreTrainedModel) -> list[str]:
    from raymodel.tasks.classes import class_names

    return [name for _, name in sorted(class_names(model).items())]


def _shares(classes: Classes, names: Sequence[str]) -> list[dict[str, Any]]:
    """Those that occur, the largest first."""
    import numpy as np

    from raymodel.modality.mask import colour

    counts = np.bincount(classes[classes != IGNORED], minlength=len(names)).tolist()
    most = sorted(range(len(counts)), key=lambda number: -counts[number])
    return [
        {
            "number": number,
            "label": names[number],
            "share": counts[number] / max(sum(counts), 1),
            "color": colour(number),
        }
        for number in most
        if counts[number]
    ]
