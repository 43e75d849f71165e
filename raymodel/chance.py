"""Numbers by chance that depend on a seed and a place alone: the one source of every random choice.

Unlike numpy's generators, whose streams may change between versions, the numbers are fixed for
good: they are integer arithmetic, SplitMix64 (doi:10.1145/2714064.2660195) from a key.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

PARTNER = "partner_"
"""Before the name of a column: of another row of the step, which chance may mix into a row where
the spec of the task says so (`AnyTask.wants_partners`)."""
KEY_BYTES = 64
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: a bijection that spreads bits."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


def derive_key(*parts: int | str) -> bytes:
    """A key from a seed and what it is for; different parts give unrelated keys."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=KEY_BYTES).digest()


class Chance:
    """A stream of random numbers: the same for the same key, whatever was drawn elsewhere.

    Only what is drawn before in the same stream decides what comes next, so a change of how a task
    draws changes its batches: raise its version then.
    """

    def __init__(self, *parts: int | str) -> None:
        self._next = int.from_bytes(derive_key(*parts)[:8], "little")

    def bits(self, count: int) -> NDArray[np.uint64]:
        """64 random bits each. (count,)"""
        steps = np.arange(1, count + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            values = mix64(np.uint64(self._next) + steps * _GAMMA)
        self._next = (self._next + count * int(_GAMMA)) % 2**64
        return values

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Evenly from 0 (included) to 1 (left out). (count,)"""
        return (self.bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, below: int, count: int) -> NDArray[np.int64]:
        """Evenly from 0 … below - 1. (count,)"""
        assert 0 < below < 2**52, below
        return (self.uniform(count) * below).astype(np.int64)

    def normal(self, count: int) -> NDArray[np.float64]:
        """Of mean 0 and deviation 1, by Box and Muller (doi:10.1214/aoms/1177706645). (count,)"""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(count)))
        turned: NDArray[np.float64] = radius * np.cos(2.0 * np.pi * self.uniform(count))
        return turned

    def beta(self, alpha: float) -> float:
        """One from 0 to 1 of the beta distribution with both parameters `alpha`, by Jöhnk's
        rejection (doi:10.1007/BF02613687): evenly where it is 1, near one of the ends below."""
        assert 0.05 <= alpha <= 2, alpha  # below, powers vanish; above, most draws are rejected
        while True:
            one, other = (math.pow(number, 1 / alpha) for number in self.uniform(2))
            if 0 < one + other <= 1:
                return one / (one + other)

    def number(self) -> float:
        """One of `uniform`."""
        return float(self.uniform(1)[0])

    def is_true(self, probability: float) -> bool:
        """True in this share of all draws."""
        return self.number() < probability


class Draw:
    """The chance of one training step: of every row by its place in the global batch.

    Neither the worker that a row falls to, nor the micro batch, nor how often a run was broken off
    changes it.
    """

    def __init__(self, seed: int, step: int, positions: Any) -> None:
        """Args:
        step: counted from 0: the data steps before this one.
        positions: places in the global batch, of the rows that are collated together. (B,)
        """
        self._seed, self._step = seed, step
        self._positions = [int(position) for position in positions]

    def __len__(self) -> int:
        return len(self._positions)

    def of_row(self, index: int, *purpose: str) -> Chance:
        """The chance of the row at `index` of those that are collated together.

        Args:
            purpose: what is drawn, where it must not change what else is drawn for the row.
        """
        return Chance("row", self._seed, self._step, self._positions[index], *purpose)

    def of_step(self) -> Chance:
        """The chance that all rows of the step share."""
        return Chance("step", self._seed, self._step)

    def part(self, start: int, stop: int) -> Draw:
        """Of these rows alone."""
        return Draw(self._seed, self._step, self._positions[start:stop])
