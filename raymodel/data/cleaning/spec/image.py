"""Steps that judge images. What is wrong is left out; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raymodel.data.cleaning.spec.base import Sees, StepSpec
from raymodel.spec.quantity import Count

MAX_SIDE = 20_000
"""Pixels; larger images are not decoded."""


class SizeSpec(StepSpec):
    """Leaves out images that are too small or too large, each side by itself, upright as they are
    shown."""

    sees: ClassVar[Sees] = "image"

    name: Literal["size"] = "size"
    """Which step."""
    min_side: Count = Field(default=200, ge=1, le=MAX_SIDE)
    """Pixels that the shorter side must have. 200 is what DataComp asks of photographs from the web
    (arXiv:2304.14108, section 3.2, basic filtering); digits and icons have fewer."""
    max_side: Count = Field(default=MAX_SIDE, ge=1, le=MAX_SIDE)
    """Pixels that the longer side may have. By default all that are decoded at all."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {
            "min_side": f"a side of fewer than {self.min_side:,} pixels",
            "max_side": f"a side of more than {self.max_side:,} pixels",
        }

    @model_validator(mode="after")
    def _can_be_met(self) -> SizeSpec:
        if self.min_side > self.max_side:
            raise ValueError(
                f"min_side is {self.min_side:,} and max_side {self.max_side:,}, so that no image "
                "is kept; min_side must not exceed max_side"
            )
        return self


class AspectSpec(StepSpec):
    """Leaves out images that are much longer than wide, or the other way round: banners, lines,
    strips of a scan."""

    sees: ClassVar[Sees] = "image"

    name: Literal["aspect"] = "aspect"
    """Which step."""
    max_ratio: float = Field(default=3.0, ge=1, le=MAX_SIDE)
    """The longer side may have so many times the pixels of the shorter one. 3 as in DataComp
    (arXiv:2304.14108, section 3.2, basic filtering)."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {"max_ratio": f"one side more than {self.max_ratio:g} times the other"}


class BlurSpec(StepSpec):
    """Leaves out images without sharp edges: out of focus, shaken, or of nothing.

    Measured is the variance of the Laplacian of the grey values, from 0 to 255 (Pech-Pacheco et al.
    2000, "Diatom autofocusing in brightfield microscopy", doi:10.1109/ICPR.2000.903548), with the
    kernel 0 1 0, 1 -4 1, 0 1 0. It also grows with noise and with what JPEG leaves at the edges of
    its blocks, and a drawing on a plain ground has little of it: look at what is left out.
    """

    sees: ClassVar[Sees] = "image"

    name: Literal["blur"] = "blur"
    """Which step."""
    min_variance: float = Field(default=100.0, gt=0, le=1e7)
    """An image of less is left out. 100 is the bound that is commonly taken for photographs
    (https://pyimagesearch.com/2015/09/07/blur-detection-with-opencv); each kind of image needs its
    own."""
    longest_edge: Count = Field(default=512, ge=16, le=2048)
    """Larger images are scaled down to so many pixels of their longer side before. The same
    photograph has the less variance the more pixels it has, so that one bound needs one size;
    that of the photographs for which 100 was found was about 500. Smaller ones stay as they
    are."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {"min_variance": f"a variance of the Laplacian of less than {self.min_variance:g}"}
