"""Boxes in an image, which go where the image goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Boxes:
    """Some boxes of one image, of the size that the model sees."""

    corners: NDArray[np.float64]
    """Left, top, right, bottom of each, as shares of the image's width and height. (n, 4)"""
    labels: NDArray[np.int64]
    """The number of the class of each. (n,)"""
    size: tuple[int, int] = (1, 1)
    """Height and width of the image in pixels."""

    def scaled(self, size: tuple[int, int], box: _Box | None, image_size: tuple[int, int]) -> Boxes:
        """In a part of the image that is scaled to `size`.

        Args:
            size: height and width.
            box: the part: left, top, right and bottom; all of it when None.
            image_size: width and height of the image.
        """
        if box is None:
            return replace(self, size=size)
        width, height = image_size
        start = np.array([box[0] / width, box[1] / height] * 2)
        extent = np.array([(box[2] - box[0]) / width, (box[3] - box[1]) / height] * 2)
        return replace(self, corners=(self.corners - start) / extent, size=size)._cut()

    def shifted(self, most: int, top: int, left: int) -> Boxes:
        """`top` and `left` are where the image begins in one with `most` more on each side."""
        height, width = self.size
        moved = np.array([(most - left) / width, (most - top) / height] * 2)
        return replace(self, corners=self.corners + moved)._cut()

    def mirrored(self) -> Boxes:
        left, top, right, bottom = self.corners.T
        return replace(self, corners=np.stack([1 - right, top, 1 - left, bottom], axis=1))

    def turned(self, angle: float) -> Boxes:
        """Nobody knows the box of what was turned in its box."""
        raise NotImplementedError("specs of tasks with boxes allow no rotate")

    def erased(self, box: _Box) -> Boxes:
        """What is hidden is still there."""
        return self

    def centred(self) -> NDArray[np.float32]:
        """x and y of the middle, width and height, as shares. (n, 4)"""
        first, last = self.corners[:, :2], self.corners[:, 2:]
        return np.concatenate([(first + last) / 2, last - first], axis=1).astype(np.float32)

    def _cut(self) -> Boxes:
        """What is left within the image of the boxes whose middle is (as SSD samples parts,
        arXiv:1512.02325)."""
        middle = (self.corners[:, :2] + self.corners[:, 2:]) / 2
        is_in = ((middle > 0) & (middle < 1)).all(axis=1)
        return replace(self, corners=self.corners[is_in].clip(0, 1), labels=self.labels[is_in])
