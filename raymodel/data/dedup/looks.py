"""What an image looks like in 64 bits, of which images that look alike have nearly all in common.

The perceptual hash of Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
Functions", section 3.2.1: of an image scaled to 32 by 32 grey pixels the 64 lowest frequencies of
the cosine transform, each as whether it is above their median. Size, compression, brightness and
contrast hardly change these; what is cut off, turned or mirrored is another image. All arithmetic
is that of whole numbers, so that every machine gives the same.

Two within a distance of d bits are found without comparing all pairs: of d + k blocks that the bits
are shared out to, k at least are equal, so they meet in one of the bands that each k blocks make
(Manku, Jain and Das Sarma 2007, "Detecting Near-Duplicates for Web Crawling", section 4).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raymodel.chance import mix64
from raymodel.data.dedup.plan import LOOK_BITS, plan_blocks

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 32
_FREQUENCIES = 8  # along each side
_SCALE = 2**14  # of cosines as whole numbers; the largest product is below 2**47


def find_look(grey: Image) -> int | None:
    """The 64 bits of an image, the first of which is 0, as the mean is no look.

    Args:
        grey: in mode `L`.

    Returns: None of an image of one shade, which looks like nothing.
    """
    from PIL.Image import Resampling

    small = np.asarray(grey.resize((_SIDE, _SIDE), Resampling.BILINEAR), dtype=np.int64)
    found = (_cosines() @ small @ _cosines().T).ravel()
    found = found[1:]
    if not found.any():
        return None
    bits = np.append(False, found > np.sort(found)[len(found) // 2])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look_keys(looks: Any, distance: int) -> Any:
    """What images that agree in all blocks of a band have in common. (n,) → (n, bands) uint64"""
    masks = _band_masks(distance)
    salts = mix64(np.arange(1, len(masks) + 1, dtype=np.uint64))
    return mix64((looks[:, None] & masks) ^ salts)


def num_apart(some: Any, others: Any) -> Any:
    """In how many bits looks differ. Both (n,) uint64"""
    return np.bitwise_count(some ^ others).astype(np.int64)


@functools.cache
def _cosines() -> Any:
    """Of each frequency at each pixel. (8, 32) int64"""
    frequency, pixel = np.mgrid[:_FREQUENCIES, :_SIDE]
    values = np.cos(math.pi * frequency * (2 * pixel + 1) / (2 * _SIDE))
    return np.round(values * _SCALE).astype(np.int64)


@functools.cache
def _band_masks(distance: int) -> Any:
    """The bits of each band: those of so many blocks. Neighbours are in different blocks, as bits
    of low frequencies tell less than others. (bands,) uint64"""
    plan = plan_blocks(distance)
    blocks = [
        sum(1 << bit for bit in range(block, LOOK_BITS, plan.blocks))
        for block in range(plan.blocks)
    ]
    bands = itertools.combinations(blocks, plan.equal)
    return np.array([sum(each) for each in bands], dtype=np.uint64)
