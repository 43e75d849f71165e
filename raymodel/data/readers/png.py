"""Pixels become PNG: the images of all formats are encoded ones from here on."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of the pixels, the same bytes every time.

    Nothing is compressed in it: shards are compressed as a whole, which makes them smaller than
    compressed images would be (MNIST: 213 and 250 bytes an image), and how a version of zlib
    compresses does not enter the bytes, by which equal images are found. RGB of three equal colours
    becomes grey, which decodes to the same: one image, though a format has no grey ones.

    Args:
        pixels: (height, width) for grey, (height, width, 3) for RGB.
    """
    from PIL import Image

    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
