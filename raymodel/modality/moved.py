"""Images moved, turned and slanted. What comes into sight at an edge continues it, so that neither
a black nor a white ground shows a seam.

Shapes: (H, W, C) before and after.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymodel.modality.image_decode import as_array, as_image

Pixels = NDArray[np.uint8]


def shifted(image: Pixels, most: int, top: int, left: int) -> Pixels:
    """The part of the image that begins at a row and a column of it with `most` pixels around."""
    height, width, _ = image.shape
    padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    return padded[top : top + height, left : left + width]


def rotated(image: Pixels, angle: float, resample: Image.Resampling) -> Pixels:
    """Turned by an angle in radians."""
    height, width, _ = image.shape
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)  # 0 at a right angle
    # So much of its surroundings a turned picture shows; one more pixel to interpolate with.
    x = max(0, math.ceil((width * abs(cos) + height * abs(sin) - width) / 2)) + 1
    y = max(0, math.ceil((height * abs(cos) + width * abs(sin) - height) / 2)) + 1
    return _taken(image, (x, y), (cos, sin, -sin, cos), resample)


def slanted(image: Pixels, x: float, y: float, resample: Image.Resampling) -> Pixels:
    """Each row moved by `x` times its distance from the middle, each column by `y` times."""
    height, width, _ = image.shape
    around = math.ceil(abs(x) * height / 2) + 1, math.ceil(abs(y) * width / 2) + 1
    return _taken(image, around, (1.0, x, y, 1.0), resample)


def _taken(
    image: Pixels,
    around: tuple[int, int],
    matrix: tuple[float, float, float, float],
    resample: Image.Resampling,
) -> Pixels:
    """Each pixel from where the matrix leads, about the middle of the image.

    Args:
        around: columns and rows that are added at each side, to take pixels from.
        matrix: by rows.
    """
    height, width, _ = image.shape
    x, y = around
    padded = np.pad(image, ((y, y), (x, x), (0, 0)), mode="edge")
    xx, xy, yx, yy = matrix
    from_x = xx, xy, width / 2 + x - xx * width / 2 - xy * height / 2
    from_y = yx, yy, height / 2 + y - yx * width / 2 - yy * height / 2
    found = as_image(padded).transform(
        (width, height), Image.Transform.AFFINE, (*from_x, *from_y), resample=resample
    )
    return as_array(found)
