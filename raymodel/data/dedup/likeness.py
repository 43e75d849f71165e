"""What near-duplicates are: of texts those that share runs of words, of images those that look
alike. The steps that find them are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from raymodel.data.dedup.looks import look_keys, num_apart
from raymodel.data.dedup.minhash import (
    SKETCH_WORDS,
    band_keys,
    has_words,
    signatures,
    similarity,
    sketches,
    spread,
)
from raymodel.data.dedup.plan import LOOK_BITS, BandPlan, plan_bands, plan_blocks
from raymodel.data.dedup.portions import portions
from raymodel.data.dedup.spec import NearDedup
from raymodel.data.dedup.texts import compares_images, num_texts
from raymodel.data.document import LOOK
from raymodel.observe.text import many
from raymodel.tasks.fields import Fields


class Sketched(NamedTuple):
    """Documents of a table with what is kept of each."""

    places: Any
    """In the table; those of which nothing can be told are not here. (n,) int64"""
    keys: Any
    """What those have in common that are compared, in each band. (n, bands) uint64"""
    sketches: Any
    """What tells whether two of them are near. (n, words) uint64"""


class Likeness(Protocol):
    """How near documents are found. Picklable."""

    @property
    def bands(self) -> int:
        """In which each document is looked up."""
        ...

    @property
    def words(self) -> int:
        """Of 64 bits, of a sketch."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        ...

    @property
    def line(self) -> str:
        """For people: which documents meet."""
        ...

    @property
    def fix(self) -> str:
        """What to do where too many share a band."""
        ...

    def sketched(self, table: pa.Table, places: Any) -> Iterator[Sketched]:
        """The documents at some places of a table, some of them at a time, in their order."""
        ...

    def are_near(self, some: Any, others: Any) -> Any:
        """Whether each of some documents is near to that of others, by their sketches. (n,) bool

        Args:
            some: (n, words) uint64
            others: the same.
        """
        ...


def likeness_of(spec: NearDedup, fields: Fields) -> Likeness:
    """How documents of these roles are near."""
    if compares_images(fields):
        return LookLikeness(spec.distance)
    return TextLikeness(fields=fields, threshold=spec.threshold, ngram=spec.ngram)


@dataclass(frozen=True, kw_only=True)
class TextLikeness:
    """Texts, by MinHash."""

    fields: Fields
    threshold: float
    """See `NearDedup`, as of `ngram`."""
    ngram: int
    words: int = SKETCH_WORDS

    @property
    def plan(self) -> BandPlan:
        """Bands and rows."""
        return plan_bands(self.threshold)

    @property
    def bands(self) -> int:
        return self.plan.bands

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "ngram": self.ngram,
            "bands": self.plan.bands,
            "rows": self.plan.rows,
            "recall_at_threshold": round(self.plan.recall(self.threshold), 3),
        }

    @property
    def line(self) -> str:
        return (
            f"documents that share {self.threshold:.0%} of their runs of "
            f"{many(self.ngram, 'word')} meet in one of {self.bands} bands of {self.plan.rows} "
            f"with a probability of {self.plan.recall(self.threshold):.0%}"
        )

    @property
    def fix(self) -> str:
        return "Raise `threshold` or `ngram`"

    def sketched(self, table: pa.Table, places: Any) -> Iterator[Sketched]:
        for portion in portions(table, places, self.fields):
            minima = signatures(portion.texts, self.ngram)
            has_any = has_words(minima)
            found = sketches(minima, num_texts(self.fields))
            keys = band_keys(minima, self.plan)
            yield Sketched(portion.places[has_any], keys[has_any], found[has_any])

    def are_near(self, some: Any, others: Any) -> Any:
        """As `similarity` is an estimate, one that falls short of the threshold by no more than its
        standard deviation counts: most of those at it are found, and some just below."""
        count = num_texts(self.fields)
        least = self.threshold - spread(self.threshold, count)
        return similarity(some, others, count) >= least


@dataclass(frozen=True)
class LookLikeness:
    """Images, by the bits of what they look like, which were taken when they were read."""

    distance: int
    """See `NearDedup`."""
    words: int = 1

    @property
    def bands(self) -> int:
        return plan_blocks(self.distance).bands

    @property
    def facts(self) -> dict[str, Any]:
        return {"distance": self.distance, "bits": LOOK_BITS, "bands": self.bands}

    @property
    def line(self) -> str:
        return (
            f"images that look alike but for {many(self.distance, 'bit')} of {LOOK_BITS} meet in "
            f"{'the' if self.bands == 1 else 'one of'} {many(self.bands, 'band')}"
        )

    @property
    def fix(self) -> str:
        return "Lower `distance`"

    def sketched(self, table: pa.Table, places: Any) -> Iterator[Sketched]:
        looks = table[LOOK].take(pa.array(places))
        has_any = looks.is_valid().to_numpy()
        known = looks.drop_null().to_numpy().astype(np.uint64)
        yield Sketched(places[has_any], look_keys(known, self.distance), known[:, None])

    def are_near(self, some: Any, others: Any) -> Any:
        return num_apart(some[:, 0], others[:, 0]) <= self.distance
