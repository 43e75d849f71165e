"""`size`, `aspect` and `blur`: images that are no good to learn from."""

from __future__ import annotations

from typing import ClassVar

from raymodel.data.cleaning.base import JudgePicture
from raymodel.data.cleaning.media import Picture
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.image import AspectSpec, BlurSpec, SizeSpec


class Size(JudgePicture[SizeSpec]):
    """Pixels of each side."""

    spec_class: ClassVar[type[StepSpec]] = SizeSpec

    def broken_rule(self, picture: Picture) -> str | None:
        """The shorter side first."""
        size = picture.grey.size
        if min(size) < self.spec.min_side:
            return "min_side"
        return "max_side" if max(size) > self.spec.max_side else None


class Aspect(JudgePicture[AspectSpec]):
    """The longer side over the shorter one."""

    spec_class: ClassVar[type[StepSpec]] = AspectSpec

    def broken_rule(self, picture: Picture) -> str | None:
        """One rule."""
        size = picture.grey.size
        return "max_ratio" if max(size) > self.spec.max_ratio * min(size) else None


class Blur(JudgePicture[BlurSpec]):
    """The variance of the Laplacian, doi:10.1109/ICPR.2000.903548."""

    spec_class: ClassVar[type[StepSpec]] = BlurSpec

    def broken_rule(self, picture: Picture) -> str | None:
        """One rule."""
        variance = picture.sharpness(self.spec.longest_edge)
        return "min_variance" if variance < self.spec.min_variance else None
