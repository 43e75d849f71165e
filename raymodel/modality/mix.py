"""Two images made one by chance, and how much of it is the first: mixup and cutmix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymodel.chance import Chance
from raymodel.modality.augment import Box
from raymodel.modality.spec import AugmentSpec


@dataclass(frozen=True)
class Mix:
    """How another image goes into one."""

    share: float
    """Of the one, from 0 to 1: what its label counts."""
    box: Box | None
    """Where the other one shows; None where both do everywhere."""

    def into(self, image: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        """Changes `image`. Both (C, H, W)"""
        if self.box is None:
            share = np.float32(self.share)
            image *= share
            image += (1 - share) * other
        else:
            left, top, right, bottom = self.box
            image[:, top:bottom, left:right] = other[:, top:bottom, left:right]


def draw_mix(spec: AugmentSpec, size: tuple[int, int], chance: Chance) -> Mix | None:
    """One of the two, or neither, as often as the spec says.

    Args:
        size: height and width of both images.
    """
    kind = chance.number()
    if kind < spec.mixup:
        return Mix(chance.beta(spec.mixup_alpha), None)
    if kind < spec.mixup + spec.cutmix:
        return _cut(*size, chance)
    return None


def _cut(height: int, width: int, chance: Chance) -> Mix:
    """A rectangle of the shape of the image about any of its points. What of it falls outside is
    lost, so the share follows from what is left, as in arXiv:1905.04899, appendix A."""
    side, x, y = (float(number) for number in chance.uniform(3))
    side = math.sqrt(side)
    high, wide = int(height * side), int(width * side)
    top, left = int(y * height) - high // 2, int(x * width) - wide // 2
    box = max(left, 0), max(top, 0), min(left + wide, width), min(top + high, height)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return Mix(1 - area / (height * width), box)
