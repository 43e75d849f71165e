"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719): some of fourteen changes, drawn evenly, all as
strong as one number says.

How strong each can be is as in its section 3.1 and AutoAugment's table 6 (arXiv:1805.09501), in
whose units torchvision has it too; either way as often where a change has two ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

from raymodel.chance import Chance
from raymodel.modality.image_decode import as_array, as_image
from raymodel.modality.moved import Pixels, rotated, shifted, slanted

_MOST_DEGREES = 30
_MOST_SLANT = 0.3
_MOST_SHIFT = 150 / 331  # of a side: 150 pixels of those images for which it was found
_MOST_CHANGE = 0.9  # of brightness and the like, which are 1 as they are
_FEWEST_BITS = 4
_BILINEAR = Image.Resampling.BILINEAR

_Change = Callable[[Pixels, float], Pixels]
"""An image, and how strongly it is changed: from -1 to 1."""


def rand_augment(image: Pixels, count: int, magnitude: float, chance: Chance) -> Pixels:
    """The image after so many changes, which may be the same one again. (H, W, C) → (H, W, C)

    Args:
        magnitude: from 0 to 1.
    """
    for _ in range(count):
        change = CHANGES[int(chance.integers(len(CHANGES), 1)[0])]
        image = change(image, magnitude if chance.is_true(0.5) else -magnitude)
    return image


def _nothing(image: Pixels, strength: float) -> Pixels:
    return image


def _autocontrast(image: Pixels, strength: float) -> Pixels:
    return as_array(ImageOps.autocontrast(as_image(image)))


def _equalized(image: Pixels, strength: float) -> Pixels:
    return as_array(ImageOps.equalize(as_image(image)))


def _turned(image: Pixels, strength: float) -> Pixels:
    return rotated(image, math.radians(_MOST_DEGREES * strength), _BILINEAR)


def _solarized(image: Pixels, strength: float) -> Pixels:
    """The lightest values inverted: the more the stronger."""
    threshold = round(256 * (1 - abs(strength)))
    return as_array(ImageOps.solarize(as_image(image), threshold))


def _posterized(image: Pixels, strength: float) -> Pixels:
    bits = 8 - round((8 - _FEWEST_BITS) * abs(strength))
    return as_array(ImageOps.posterize(as_image(image), bits))


def _saturated(image: Pixels, strength: float) -> Pixels:
    return as_array(ImageEnhance.Color(as_image(image)).enhance(1 + _MOST_CHANGE * strength))


def _contrasted(image: Pixels, strength: float) -> Pixels:
    return as_array(ImageEnhance.Contrast(as_image(image)).enhance(1 + _MOST_CHANGE * strength))


def _brightened(image: Pixels, strength: float) -> Pixels:
    return as_array(ImageEnhance.Brightness(as_image(image)).enhance(1 + _MOST_CHANGE * strength))


def _sharpened(image: Pixels, strength: float) -> Pixels:
    return as_array(ImageEnhance.Sharpness(as_image(image)).enhance(1 + _MOST_CHANGE * strength))


def _slanted_across(image: Pixels, strength: float) -> Pixels:
    return slanted(image, _MOST_SLANT * strength, 0.0, _BILINEAR)


def _slanted_down(image: Pixels, strength: float) -> Pixels:
    return slanted(image, 0.0, _MOST_SLANT * strength, _BILINEAR)


def _moved_across(image: Pixels, strength: float) -> Pixels:
    by = round(_MOST_SHIFT * image.shape[1] * strength)
    return shifted(image, abs(by), abs(by), abs(by) + by)


def _moved_down(image: Pixels, strength: float) -> Pixels:
    by = round(_MOST_SHIFT * image.shape[0] * strength)
    return shifted(image, abs(by), abs(by) + by, abs(by))


CHANGES: tuple[_Change, ...] = (
    _nothing,
    _autocontrast,
    _equalized,
    _turned,
    _solarized,
    _posterized,
    _saturated,
    _contrasted,
    _brightened,
    _sharpened,
    _slanted_across,
    _slanted_down,
    _moved_across,
    _moved_down,
)
