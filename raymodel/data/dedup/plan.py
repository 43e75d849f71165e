"""Counts of the search for near-duplicates: slots, bands and rows, buckets.

MinHash (Broder 1997, https://doi.org/10.1109/SEQUEN.1997.666900) with bands of rows (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, section 3.4): two documents of similarity s agree
in all rows of at least one band with probability 1 − (1 − s^rows)^bands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SLOTS = 256
"""Minima that are taken of each document. All of them together tell the similarity of two
documents: to a standard deviation of 0.03 at 0.8 and of 0.042 at the most, as two bits are kept of
each."""
MAX_BAND_SLOTS = 128
"""Of these, the most that bands are made of. More would need fewer candidates to be compared, and
more room: each band writes one record a document."""
RECALL = 0.95
"""Share of the pairs at the threshold that share a band; of those above it are more."""
MIN_THRESHOLD = 0.3
"""Below it a band would be a single minimum, which texts share that have little else in common."""
MAX_ROWS = 16
"""Of a band. At thresholds where more would do, nearly all candidates are near anyway."""

BUCKET_RECORDS = 2_000_000
"""That one task compares: 160 MB, and as much again while it sorts them."""
MAX_LEADERS = 1000
"""Documents of one band's bucket that are near to no other there, and that others are held against:
a bound to time where thousands share a phrase and nothing else. Beyond it is counted and said."""
BUCKET_UNITS = 8_000_000
"""Lines or paragraphs that one task counts, 16 bytes each, and some four times as much while it
sorts them."""
_MEAN_UNIT_BYTES = 32  # being wrong costs memory only
MAX_SET_NGRAMS = 50_000_000
"""Of one evaluation set: 600 MB in each process, and more words than any such set has."""


@dataclass(frozen=True)
class BandPlan:
    """How documents are looked up."""

    bands: int
    rows: int
    """Of a band."""

    def recall(self, similarity: float) -> float:
        """Share of the pairs of this similarity that meet in a band."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


def plan_bands(threshold: float) -> BandPlan:
    """The most rows, so the fewest candidates, with which `RECALL` of the pairs at the threshold
    are found, within `MAX_BAND_SLOTS`."""
    for rows in range(MAX_ROWS, 0, -1):
        miss = 1 - threshold**rows
        bands = math.ceil(math.log(1 - RECALL) / math.log(miss)) if miss > 0 else 1
        if rows * bands <= MAX_BAND_SLOTS:
            return BandPlan(bands, rows)
    raise AssertionError(f"a threshold of {threshold} is below the lowest")


LOOK_BITS = 64
"""What is kept of an image, see `looks.py`."""
MAX_DISTANCE = 10
"""Bits by which two images may differ. Zauner's images differ by less than a quarter of 64 where
they are the same, and by half where they are not; of many images some others are nearer by chance,
and each bit more takes more bands."""
MIN_KEY_BITS = 10
"""Of a band: with fewer, most of what meets is unlike."""


@dataclass(frozen=True)
class BlockPlan:
    """How images are looked up."""

    blocks: int
    """That the bits are shared out to."""
    equal: int
    """Blocks of a band: any two within the distance have as many in common, at least."""

    @property
    def bands(self) -> int:
        return math.comb(self.blocks, self.equal)


def plan_blocks(distance: int) -> BlockPlan:
    """The fewest bands in which all pairs within a distance meet, with keys of `MIN_KEY_BITS`."""
    equal = 1
    while LOOK_BITS * equal // (distance + equal) < MIN_KEY_BITS:
        equal += 1
    return BlockPlan(distance + equal, equal)


def plan_near_buckets(documents: int) -> int:
    """Tasks among which the documents of one band are shared out."""
    return max(1, -(-documents // BUCKET_RECORDS))


def plan_unit_buckets(total_bytes: int) -> int:
    """Tasks among which the lines or paragraphs of all sources are shared out."""
    return max(1, -(-total_bytes // (_MEAN_UNIT_BYTES * BUCKET_UNITS)))
