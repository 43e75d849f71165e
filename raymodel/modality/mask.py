"""Masks: the class of each pixel of an image, as a file of whole numbers."""

from __future__ import annotations

import colorsys
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raymodel.modality.image_decode import ImageError, open_image
from raymodel.modality.spec import IGNORED

Classes = NDArray[np.uint8]
"""(H, W), the number of a class, or `IGNORED`."""

LOSSY = "mask in a format that changes pixels (JPEG, WebP); masks are PNG, TIFF, BMP or GIF"
COLOURS = "mask of colours; its pixels must be numbers, of one channel or of a palette"

# Of one channel: bits, bytes, the places in a palette, 16 bits, 32 bits.
_OF_NUMBERS = frozenset({"1", "L", "P", "I;16", "I;16B", "I;16L", "I"})
_GOLDEN = (5**0.5 - 1) / 2  # hues by its multiples keep apart, however many there are


def decode_mask(data: bytes) -> NDArray[np.int64]:
    """The number in each pixel, of a palette the place in it. (H, W)

    Raises:
        ImageError: it is no whole image file, or its pixels are no numbers.
    """
    with open_image(data) as image:
        if image.format in ("JPEG", "MPO", "WEBP"):
            raise ImageError(LOSSY)
        if image.mode not in _OF_NUMBERS:
            raise ImageError(COLOURS)
        return np.asarray(image).astype(np.int64)


def encode_mask(classes: Classes) -> bytes:
    """A grey PNG whose values are the numbers; the same mask, the same bytes."""
    return _as_png(Image.fromarray(classes))


def encode_in_colours(classes: Classes) -> bytes:
    """A PNG of a palette: its values are the numbers, and whoever looks at it sees `colour`."""
    image = Image.fromarray(classes).convert("P")
    # `convert` gives each grey its own place, which is its value.
    image.putpalette([part for number in range(256) for part in _colour(number)])
    return _as_png(image)


def colour(number: int) -> str:
    """Of a class, as `#rrggbb`."""
    return "#" + bytes(_colour(number)).hex()


def scaled_mask(
    classes: Classes, size: tuple[int, int], box: tuple[int, int, int, int] | None = None
) -> Classes:
    """Each pixel takes the class that its middle lies on.

    Args:
        size: height and width.
        box: left, top, right and bottom of what is scaled; all of it when None.
    """
    scaled = Image.fromarray(classes).resize(size[::-1], Image.Resampling.NEAREST, box)
    return np.asarray(scaled)


def _colour(number: int) -> tuple[int, int, int]:
    """Black, which most masks have as their ground, and then hues far from one another."""
    if number in (0, IGNORED):
        return (0, 0, 0) if number == 0 else (255, 255, 255)
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.7, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _as_png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()
