"""What the tasks share that are given images: from files to what lies in a row, and to a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Columns, Example, LeftOut

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from raymodel.chance import Draw
    from raymodel.modality.image import ImageProcessor
    from raymodel.modality.spec import AugmentSpec

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


def pixel_values(
    rows: Columns, processor: ImageProcessor, augment: AugmentSpec, draw: Draw | None
) -> torch.Tensor:
    """(B, channels, height, width) on the CPU; changed by chance where there is a `draw`."""
    import torch

    pixels = processor.pixels_of(
        list(rows["image"]), augment=augment, draw=draw, threads=torch.get_num_threads()
    )
    return torch.from_numpy(pixels)
