"""From the bytes of an image file to its pixels.

The files come from anyone, so nothing that they say is believed: the formats are a fixed list, the
size is looked at before a pixel is decoded, and whatever a decoder trips over is an `ImageError`
with one of a few reasons, by which records are counted.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffTags, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_SIDE = 20_000
MAX_PIXELS = 89_478_485
"""In all: a quarter of a GiB as RGB. Above it Pillow warns of a decompression bomb."""

EMPTY = "empty image file"
UNKNOWN = f"no image of a format that is read ({', '.join(FORMATS)})"
TOO_LARGE = f"image of more than {MAX_SIDE:,} pixels a side or {MAX_PIXELS // 10**6} million in all"
BROKEN = "image file is broken or cut short"
NO_WHITE = "image of numbers without a known white (32-bit integers, floats outside of 0 … 1, Lab)"

# What Pillow's decoders raise at files that were made or damaged to mislead them. `MemoryError` is
# not one: the size is bounded before, so it is about this machine.
_FAILURES = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    EOFError, RuntimeError, AssertionError, struct.error, zlib.error,
)  # fmt: skip
# With one of these a file that no decoder takes is not of another format.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF8")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# EXIF 2.3, tag 0x0112: how the camera was held.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TAGS = {tag.name: number for number, tag in TiffTags.TAGS_V2.items()}
_BITS, _PHOTOMETRIC = _TAGS["BitsPerSample"], _TAGS["PhotometricInterpretation"]


class ImageError(ValueError):
    """An image that cannot be shown to a model."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """The same words for all images of a kind."""


def decode_image(data: bytes, channels: int) -> Image.Image:
    """The first frame, upright, in mode `L` (1 channel) or `RGB` (3).

    What is transparent lies on white, as transformers does it and as pages show it: the colour
    under it, which dropping alpha would reveal, is whatever the writer left there. Grey of 16 bits
    and floats from 0 to 1 are scaled to 0 … 255; colour profiles are not applied.

    Raises:
        ImageError: no such image can be made of `data`.
    """
    with open_image(data) as image:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        plain = _plain(image, "L" if channels == 1 else "RGB")
    return plain if turn is None else plain.transpose(turn)


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """The first frame as it lies in the file, decoded. What fails while it is open is told as what
    the file is.

    Raises:
        ImageError: it is no image file, or a broken one, or too large.
    """
    if not data:
        raise ImageError(EMPTY)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
                raise ImageError(TOO_LARGE)
            image.load()
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(BROKEN if data.startswith(_SIGNATURES) else UNKNOWN) from error
    except _BOMBS as error:
        raise ImageError(TOO_LARGE) from error
    except _FAILURES as error:
        raise ImageError(BROKEN) from error


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of an image that was decoded before, as it lies in its file."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def thumbnail(data: bytes, longest_edge: int) -> bytes:
    """A small PNG of an image, for people. Raises ImageError as `decode_image` does."""
    image = decode_image(data, channels=3)
    image.thumbnail((longest_edge, longest_edge))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def shrink_image(data: bytes, channels: int, shortest_edge: int) -> bytes:
    """The file, or one whose shorter edge is `shortest_edge` where that is smaller.

    JPEG stays JPEG and WebP becomes it; the rest becomes PNG, which loses nothing more.
    """
    image = decode_image(data, channels)
    if min(image.size) <= shortest_edge:
        return data
    scale = shortest_edge / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    smaller = image.resize((width, height), Image.Resampling.LANCZOS)
    with Image.open(io.BytesIO(data), formats=FORMATS) as file:
        is_lossy = file.format in ("JPEG", "MPO", "WEBP")
    stream = io.BytesIO()
    if is_lossy:
        # What this loses is below the noise of the first compression.
        smaller.save(stream, "JPEG", quality=95, subsampling=0)
    else:
        smaller.save(stream, "PNG", compress_level=6)
    return stream.getvalue()


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, C), read-only, of a picture in mode `L` or `RGB`."""
    pixels: NDArray[np.uint8] = np.asarray(image).reshape(image.height, image.width, -1)
    return pixels


def as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """The picture in mode `L` or `RGB`. pixels: (H, W, C)"""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _plain(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "LAB":  # Pillow converts it by profiles only
        raise ImageError(NO_WHITE)
    if image.mode[0] in "IF":
        return Image.fromarray(_from_deep(image)).convert(mode)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def _from_deep(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W) of grey that has more than 8 bits, each value scaled and rounded."""
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "F":
        if not (values.min() >= 0.0 and values.max() <= 1.0):  # NaN is neither
            raise ImageError(NO_WHITE)
        return np.round(values * 255.0).astype(np.uint8)
    # Of 16 bits, also as the 32 that Pillow gives a PNG or PPM of 16; a TIFF of 32 may mean any.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ImageError(NO_WHITE)
    white = 2 ** int(tags.get(_BITS, (16,))[0]) - 1
    if tags.get(_PHOTOMETRIC) == 0:  # the other way round, which Pillow leaves so
        values = white - values
    grey = (values.astype(np.uint32) * 255 + white // 2) // white
    return np.asarray(grey, np.uint8)
