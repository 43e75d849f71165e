"""What the tasks share that are given images: from files to what lies in a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Example, LeftOut

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from raymodel.modality.image import ImageProcessor
    from raymodel.modality.spec import ImageSpec

GREY_SQUARE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEE"
    "lEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
)
"""Of 8 pixels as PNG, in base64: something that every model can be asked."""


def image_schema() -> pa.Schema:
    """`image` binary, encoded as in its source."""
    import pyarrow as pa

    return pa.schema([("image", pa.binary())])


def image_example(values: Mapping[str, Any], processor: ImageProcessor) -> Example | LeftOut:
    """The encoded image, once it was seen to be whole."""
    from raymodel.modality.image_decode import ImageError

    try:
        processor.check(values["image"])
    except ImageError as error:
        return LeftOut(error.reason)
    return Example(features={"image": values["image"]})


def fresh_images(image: ImageSpec | None) -> ImageProcessor | None:
    """The processor of a fresh model; None where nothing is said of its images."""
    from raymodel.modality.image import ImageProcessor

    return None if image is None else ImageProcessor.fresh(image)


def pixels_for(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The `pixel_values` of a batch, in the model's format."""
    return batch["pixel_values"].to(next(model.parameters()).dtype)
