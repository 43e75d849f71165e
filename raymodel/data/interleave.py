"""How the parts of a mixture follow each other: level 1 of `data/order.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from raymodel.chance import derive_key
from raymodel.data.permutation import Indices


class Interleave:
    """An endless stream of places, cut into epochs; each place belongs to a part, and in every
    epoch each part has as many as its quota says."""

    def __init__(self, quotas: Sequence[int], seed: int, stage: int = 0) -> None:
        """Args:
        quotas: places of an epoch that belong to each part.
        stage: whose stream it is, where a run has several.
        """
        self.quotas = list(quotas)
        self._shares = np.cumsum([0, *quotas])
        self.rows_per_epoch = int(self._shares[-1])
        assert self.rows_per_epoch > 0, "a mixture has rows"
        self._stride = _coprime_stride(self.rows_per_epoch)
        self._key: tuple[Any, ...] = (seed, "mixture")
        self._stage = (stage,) if stage else ()

    def parts(self, position: int, count: int) -> Indices:
        """The part of each of `count` places from `position` on, all of one epoch. (count,)"""
        epoch, place = divmod(position, self.rows_per_epoch)
        assert place + count <= self.rows_per_epoch, "places of one epoch"
        first = (place * self._stride + self._offset(epoch)) % self.rows_per_epoch
        places = (first + np.arange(count, dtype=np.int64) * self._stride) % self.rows_per_epoch
        part_of: Indices = np.searchsorted(self._shares, places, side="right") - 1
        return part_of

    def visits(self, part_index: int, position: int) -> int:
        """How many of the first `position` places belong to a part."""
        epoch, place = divmod(position, self.rows_per_epoch)
        return epoch * self.quotas[part_index] + self._visits_before(part_index, epoch, place)

    def _offset(self, epoch: int) -> int:
        key = derive_key(*self._key, epoch, *self._stage)
        return int.from_bytes(key[:8], "little") % self.rows_per_epoch

    def _visits_before(self, part_index: int, epoch: int, place: int) -> int:
        """How many of the first `place` places of an epoch belong to a part."""
        low, high = int(self._shares[part_index]), int(self._shares[part_index + 1])
        total, offset = self.rows_per_epoch, self._offset(epoch)
        # (x mod W) ≥ a  ⇔  floor((x + W - a) / W) - floor(x / W) = 1
        above_low = floor_sum(place, total, self._stride, offset + total - low)
        above_high = floor_sum(place, total, self._stride, offset + total - high)
        return above_low - above_high


def _coprime_stride(total: int) -> int:
    """The integer nearest to total / golden ratio that has no factor in common with it."""
    wanted = round(total * (math.sqrt(5) - 1) / 2)
    for distance in range(total + 1):
        for stride in (wanted - distance, wanted + distance):
            if stride >= 1 and math.gcd(stride, total) == 1:
                return stride
    raise AssertionError("1 is coprime to everything")


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum of floor((a·i + b) / m) for 0 ≤ i < n, by Euclid's algorithm, in O(log m).

    Knuth, Graham and Patashnik, Concrete Mathematics, section 3.5.
    """
    total = 0
    while n > 0:
        quotient, a = divmod(a, m)
        total += n * (n - 1) // 2 * quotient
        quotient, b = divmod(b, m)
        total += n * quotient
        highest = a * n + b
        n, b, m, a = highest // m, highest % m, a, m
    return total
