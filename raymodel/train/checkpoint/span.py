"""Which elements of a flattened parameter a process holds: one run, or the rows of a block.

A worker that shares a matrix by columns holds a piece of each of its rows. Written as single runs
that would be thousands of entries a matrix; a span says it in five numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """`length` elements in order: runs of `run` elements whose starts are `stride` apart.

    The first run may have begun `phase` elements before `start`, and the last may end early.
    """

    start: int
    length: int
    run: int
    stride: int
    phase: int = 0

    @classmethod
    def of(cls, start: int, length: int) -> Span:
        """A single run."""
        return cls(start, length, max(length, 1), max(length, 1))

    @property
    def is_one_run(self) -> bool:
        return self.phase + self.length <= self.run

    @property
    def stop(self) -> int:
        """The element after the last."""
        return self.place(self.length - 1) + 1

    def place(self, index: int) -> int:
        """Where the `index`-th element of the span lies in the parameter."""
        runs, inside = divmod(self.phase + index, self.run)
        return self.start - self.phase + runs * self.stride + inside

    def cut(self, begin: int, end: int) -> Span:
        """Its elements `begin … end`."""
        phase = (self.phase + begin) % self.run
        return Span(self.place(begin), end - begin, self.run, self.stride, phase)

    def runs(self) -> tuple[Numbers, Numbers]:
        """Where each run begins in the span, and in the parameter."""
        count = -(-(self.phase + self.length) // self.run)
        number = np.arange(count, dtype=np.int64)
        inside = number * self.run - self.phase
        places = self.start - self.phase + number * self.stride
        inside[0], places[0] = 0, self.start
        return inside, places


class Overlap(NamedTuple):
    """Elements that two spans share: runs at `a[i] … a[i] + lengths[i]` of one, `b[i]` of the
    other."""

    a: Numbers
    b: Numbers
    lengths: Numbers


def overlap(a: Span, b: Span) -> Overlap:
    """The elements that lie in both, in the order of the parameter."""
    a_inside, a_begin = a.runs()
    b_inside, b_begin = b.runs()
    a_end = a_begin + np.diff(a_inside, append=a.length)
    b_end = b_begin + np.diff(b_inside, append=b.length)
    first = np.searchsorted(b_end, a_begin, side="right")
    after = np.searchsorted(b_begin, a_end, side="left")
    count = np.maximum(after - first, 0)
    i = np.repeat(np.arange(len(a_begin)), count)
    j = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    begin = np.maximum(a_begin[i], b_begin[j])
    lengths = np.minimum(a_end[i], b_end[j]) - begin
    return Overlap(a_inside[i] + begin - a_begin[i], b_inside[j] + begin - b_begin[j], lengths)
