"""`image:` what images a fresh model takes; `augment:` how training changes them, by chance."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raymodel.spec.base import Spec
from raymodel.spec.quantity import Fraction

TEMPLATES = ("chatml", "roles", "plain")
"""Chat templates that come with raymodel, by name, see `chat.py`. `chatml` and `roles` need their
special tokens in the vocabulary (`roles` those of the tokenizers that raymodel trains), `plain` an
end of text alone."""

Pooling = Literal["mean", "cls", "last"]
"""How the vectors of a text's tokens become one: their mean, that of the first token (which
encoders call CLS), or that of the last, which alone has read all of the text in a decoder."""


class ImageSpec(Spec):
    """What images a fresh model takes; a base brings its own `preprocessor_config.json`."""

    size: int = Field(ge=1, le=4096)
    """Pixels of each side: every image is scaled to that square."""
    channels: Literal[1, 3] = 3
    """1 is grey, 3 are red, green and blue."""
    mean: float = Field(default=0.5, ge=0, le=1)
    """Subtracted from values between 0 and 1."""
    std: float = Field(default=0.5, gt=0, le=1)
    """By which they are divided then."""


class AugmentSpec(Spec):
    """Changes of images that leave what they show the same. Everything is off by default: which
    changes do, the data decides (a mirrored digit is another sign).

    Applied in the order of the fields, each with numbers of its own for every row of every step.
    """

    crop: Fraction = Field(default=1.0, ge=0.01)
    """The smallest share of an image's area that is cut out and scaled to the whole
    (arXiv:1409.4842); 1.0 cuts nothing. Common are 0.08 for large sets of photographs, 0.35 and
    above for small ones."""
    shift: int = Field(default=0, ge=0, le=1000)
    """Moves the image by up to so many pixels along each side. The pixels at its edge are
    continued, so that neither a black nor a white ground shows a seam. 2 suits digits of 28
    pixels, 4 photographs of 32."""
    flip: bool = False
    """Mirrors left and right in half of all cases."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Turns by up to so many degrees either way; the edge is continued as with `shift`."""
    color: Fraction = 0.0
    """Multiplies brightness, contrast and saturation each by a number from 1 - color to
    1 + color."""
    erase: Fraction = 0.0
    """The share of images in which a rectangle of 2 to 40 % of the area becomes noise
    (arXiv:1708.04896)."""
