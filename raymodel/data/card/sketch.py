"""What many values are like, in little memory: their histogram, their most frequent names, a few.

Each part of the data has sketches of its own, which are put together in the order of the parts. So
a data card has the same bytes however many looked at the parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from raymodel.data.account import encodable

BINS_PER_OCTAVE = 8
"""A bin is at most an eighth as wide as the numbers in it, so quantiles are right to 12 %."""
_EXACT = 2 * BINS_PER_OCTAVE  # numbers below it have a bin each
MAX_NAMES = 256
"""Names that are counted; of a thousand partitions their summaries together stay below 100 MB."""
NAME_CHARS = 120


class Histogram:
    """Whole numbers from 0 on, counted in bins that grow with them: at most some 500."""

    def __init__(self) -> None:
        self.total = 0
        """Of all numbers."""
        self.least: int | None = None
        self.most: int | None = None
        self.bins: Counter[int] = Counter()
        """Lower edge → numbers from it to the next."""

    @property
    def count(self) -> int:
        return self.bins.total()

    @property
    def mean(self) -> float:
        return self.total / max(1, self.count)

    def add(self, numbers: Any) -> None:
        """Counts them. (n,) integers"""
        numbers = np.asarray(numbers, dtype=np.int64)
        if not len(numbers):
            return
        edges, counts = np.unique(lower_edges(numbers), return_counts=True)
        self.bins.update(dict(zip(edges.tolist(), counts.tolist(), strict=True)))
        self.total += int(numbers.sum())
        self._widen(int(numbers.min()), int(numbers.max()))

    def merge(self, data: Mapping[str, Any]) -> None:
        """Counts what another one counted, given as JSON."""
        self.bins.update(dict(data["bins"]))
        self.total += data["total"]
        if data["bins"]:
            self._widen(data["least"], data["most"])

    def _widen(self, least: int, most: int) -> None:
        self.least = least if self.least is None else min(self.least, least)
        self.most = most if self.most is None else max(self.most, most)

    def quantile(self, share: float) -> int:
        """A number that about this share of all does not exceed; 0 of none."""
        seen, wanted = 0, share * self.count
        for edge, count in sorted(self.bins.items()):
            seen += count
            if seen >= wanted:
                return min(max(edge, self.least or 0), self.most or 0)
        return 0

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "count": self.count,
            "total": self.total,
            "least": self.least,
            "most": self.most,
            "bins": sorted([edge, count] for edge, count in self.bins.items()),
        }


def lower_edges(numbers: Any) -> Any:
    """The lower edge of the bin of each. (n,) int64 → (n,) int64"""
    _, exponents = np.frexp(numbers.astype(np.float64))  # 2 ** (e - 1) <= number < 2 ** e
    shifts = np.maximum(exponents.astype(np.int64) - (_EXACT.bit_length() - 1), 0)
    return (numbers >> shifts) << shifts


def next_edge(edge: int) -> int:
    """Where the bin with this lower edge ends."""
    return edge + (1 << max(edge.bit_length() - (_EXACT.bit_length() - 1), 0))


def bin_index(edge: int) -> int:
    """The place of a bin among all, from its lower edge: the axis of a plot."""
    shift = max(edge.bit_length() - (_EXACT.bit_length() - 1), 0)
    return (edge >> shift) + shift * BINS_PER_OCTAVE


class Names:
    """The most frequent of any number of names.

    Counts are never too high, and short by `lost` at most, which is 0 for up to `MAX_NAMES` names:
    Misra & Gries, "Finding repeated elements", 1982; for merging, Agarwal et al., "Mergeable
    summaries", 2012.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._counts: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> None:
        """Adds these counts; of long names the beginning counts."""
        for name, count in counts.items():
            self._counts[encodable(name[:NAME_CHARS])] += count
        self._shrink()

    def merge(self, data: Mapping[str, Any]) -> None:
        """Counts what another one counted, given as JSON."""
        self._counts.update(dict(data["names"]))
        self.lost += data["lost"]
        self._shrink()

    def _shrink(self) -> None:
        if len(self._counts) > MAX_NAMES:
            least = sorted(self._counts.values(), reverse=True)[MAX_NAMES]
            self._counts = Counter({n: c - least for n, c in self._counts.items() if c > least})
            self.lost += least

    def __len__(self) -> int:
        return len(self._counts)

    def most(self, number: int) -> list[tuple[str, int]]:
        """The most frequent names with their counts, those of one count by name."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:number]

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {"lost": self.lost, "names": self.most(MAX_NAMES)}
