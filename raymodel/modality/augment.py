"""Images changed by chance. Every number comes from `Chance`: the same one, the same bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from PIL import Image, ImageEnhance

from raymodel.chance import Chance
from raymodel.modality.image_decode import as_array, as_image
from raymodel.modality.moved import Pixels, rotated, shifted
from raymodel.modality.rand_augment import rand_augment
from raymodel.modality.spec import IGNORED, AugmentSpec

Box = tuple[int, int, int, int]
"""Left, top, right, bottom: the last two are the first column and row outside."""

_CROP_RATIO = 4 / 3  # wider or higher by so much at most, as in arXiv:1409.4842
_ERASED = 0.02, 0.4  # share of the area, and the ratio, of arXiv:1708.04896
_ERASE_RATIO = 1 / 0.3


def random_crop(width: int, height: int, smallest: float, chance: Chance) -> Box:
    """A part of an image of at least the share `smallest` of its area.

    It is up to a third wider than high, or higher than wide; more so only where the image itself is
    too narrow for a part of that area.
    """
    return _rectangle(width, height, (smallest, 1.0), _CROP_RATIO, chance)


def augment(image: Pixels, spec: AugmentSpec, chance: Chance) -> Pixels:
    """The image with all changes of `spec` but `crop`, which comes before an image is scaled.

    Args:
        image: Of the size that the model sees. (H, W, C)

    Returns:
        (H, W, C)
    """
    return augment_with(image, None, spec, chance)[0]


class Beside(Protocol):
    """What goes with an image: its mask, its boxes."""

    def shifted(self, most: int, top: int, left: int) -> Self: ...

    def mirrored(self) -> Self: ...

    def turned(self, angle: float) -> Self: ...

    def erased(self, box: Box) -> Self: ...


def augment_with(
    image: Pixels, beside: Beside | None, spec: AugmentSpec, chance: Chance
) -> tuple[Pixels, Beside | None]:
    """The same of an image and of what goes with it, by the same numbers; colours change in the
    image alone."""
    if spec.shift:
        top, left = (int(number) for number in chance.integers(2 * spec.shift + 1, 2))
        image = shifted(image, spec.shift, top, left)
        beside = beside and beside.shifted(spec.shift, top, left)
    if spec.flip and chance.is_true(0.5):
        image, beside = image[:, ::-1], beside and beside.mirrored()
    if spec.rotate:
        angle = math.radians(spec.rotate * (2 * chance.number() - 1))
        image = rotated(image, angle, Image.Resampling.BILINEAR)
        beside = beside and beside.turned(angle)
    if spec.color:
        image = _recoloured(image, spec.color, chance)
    if spec.randaugment:
        assert beside is None, "it moves images, and what goes with them would not be moved"
        image = rand_augment(image, spec.randaugment, spec.magnitude, chance)
    if spec.erase and chance.is_true(spec.erase):
        image, box = _erased(image, chance)
        beside = beside and beside.erased(box)
    return image, beside


@dataclass(frozen=True)
class MaskBeside:
    """The number of a class in each pixel; what is erased is ignored."""

    pixels: Pixels
    """(H, W, 1)"""

    def shifted(self, most: int, top: int, left: int) -> MaskBeside:
        return MaskBeside(shifted(self.pixels, most, top, left))

    def mirrored(self) -> MaskBeside:
        return MaskBeside(self.pixels[:, ::-1])

    def turned(self, angle: float) -> MaskBeside:
        return MaskBeside(rotated(self.pixels, angle, Image.Resampling.NEAREST))

    def erased(self, box: Box) -> MaskBeside:
        left, top, right, bottom = box
        pixels = self.pixels.copy()
        pixels[top:bottom, left:right] = IGNORED
        return MaskBeside(pixels)


def _rectangle(
    width: int, height: int, shares: tuple[float, float], most_ratio: float, chance: Chance
) -> Box:
    """Share of the area evenly in `shares`, width over height evenly on a logarithmic scale."""
    share, shape, x, y = (float(number) for number in chance.uniform(4))
    area = (shares[0] + (shares[1] - shares[0]) * share) * width * height
    wide = math.sqrt(area * most_ratio ** (2 * shape - 1))
    wide = min(max(wide, area / height), width)  # a part that is too high becomes wider
    high = min(math.ceil(area / wide), height)
    wide = min(math.ceil(wide), width)
    left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
    return left, top, left + wide, top + high


def _recoloured(image: Pixels, most: float, chance: Chance) -> Pixels:
    brightness, contrast, saturation = (
        1 + most * (2 * float(number) - 1) for number in chance.uniform(3)
    )
    picture = ImageEnhance.Brightness(as_image(image)).enhance(brightness)
    picture = ImageEnhance.Contrast(picture).enhance(contrast)
    return as_array(ImageEnhance.Color(picture).enhance(saturation))


def _erased(image: Pixels, chance: Chance) -> tuple[Pixels, Box]:
    height, width, channels = image.shape
    box = left, top, right, bottom = _rectangle(width, height, _ERASED, _ERASE_RATIO, chance)
    shape = bottom - top, right - left, channels
    count = math.prod(shape)
    noise = chance.bits(-(-count // 8)).astype("<u8").view(np.uint8)[:count]
    erased = image.copy()
    erased[top:bottom, left:right] = noise.reshape(shape)
    return erased, box
