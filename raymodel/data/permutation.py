"""Keyed permutations of 0 … n-1 that are computed, not stored.

A balanced Feistel network over the next even number of bits is a permutation for any round
function (Luby and Rackoff, 1988); numbers that land at or above n are sent through again until
they fall below it ("cycle walking", Black and Rogaway, 2002, doi:10.1007/3-540-45760-7_9), which
keeps it a permutation of exactly n. Unlike numpy's generators, whose streams may change between
versions, the result is fixed for good: it is integer arithmetic alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymodel.chance import KEY_BYTES, mix64

Indices = NDArray[np.int64]

_ROUNDS = KEY_BYTES // 8  # four suffice in theory; small domains have few key bits per round
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


class Permutation:
    """One permutation of 0 … n-1, chosen by a key. Constant memory, any n below 2^62."""

    def __init__(self, n: int, key: bytes) -> None:
        assert 0 < n < 2**62, n
        self.n = n
        half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        self._round_keys = np.frombuffer(key, dtype="<u8")
        assert len(self._round_keys) == _ROUNDS, "make keys with derive_key"

    def __call__(self, indices: Any) -> Indices:
        """Where each of `indices` (each in 0 … n-1) goes."""
        values = self._shuffle(np.asarray(indices).astype(np.uint64))
        outside = np.flatnonzero(values >= self.n)
        while outside.size:
            values[outside] = self._shuffle(values[outside])
            outside = outside[values[outside] >= self.n]
        return values.astype(np.int64)

    def _shuffle(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._round_keys:
            mixed = mix64((right + key) * _GAMMA)
            left, right = right, left ^ (mixed & self._mask)
        return (left << self._half) | right
