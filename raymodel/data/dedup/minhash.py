"""MinHash: what of a document's runs of words is kept to find those that are like it.

Of each of many orders of all runs, a document keeps the first of its own: two documents have the
same first with the probability that is their similarity, the share of the runs of either that both
have (Jaccard). All arithmetic is that of whole numbers, so that every machine gives the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from raymodel.chance import mix64
from raymodel.data.dedup.plan import SLOTS, BandPlan
from raymodel.data.dedup.words import runs_of, words_of

SKETCH_WORDS = SLOTS * 2 // 64
"""Of 64 bits: two bits of each minimum."""
_NOTHING = np.uint32(2**32 - 1)
_LOW_BITS = np.uint64(0x5555_5555_5555_5555)
_BY_CHANCE = 1 / 4
"""Two bits of different minima agree as often (b-bit minwise hashing, arXiv:0910.3349)."""


def signatures(documents: Sequence[Sequence[str]], ngram: int) -> Any:
    """The minima of each document, those of its texts in turn, so that each counts alike.

    Args:
        documents: the texts of each, as many of all.
        ngram: words of a run.

    Returns: (documents, SLOTS) uint32. A text without words gives what no other does.
    """
    num_texts = len(documents[0])
    found = np.empty((SLOTS, len(documents)), dtype=np.uint32)
    for place in range(num_texts):
        words = words_of([document[place] for document in documents])
        runs = runs_of(words, ngram, short=True)
        found[place::num_texts] = _minima(runs.hashes, runs.bounds, place, num_texts)
    return np.ascontiguousarray(found.T)


def has_words(minima: Any) -> Any:
    """Whether any text of each document has a word. (documents,) bool"""
    return (minima != _NOTHING).any(axis=1)


def band_keys(minima: Any, plan: BandPlan) -> Any:
    """What documents that agree in all rows of a band have in common. (documents, bands) uint64"""
    rows = minima[:, : plan.bands * plan.rows].reshape(-1, plan.bands, plan.rows)
    keys = np.tile(mix64(np.arange(1, plan.bands + 1, dtype=np.uint64)), (len(rows), 1))
    for row in range(plan.rows):
        keys = mix64(keys ^ rows[:, :, row])
    return keys


def sketches(minima: Any, num_texts: int) -> Any:
    """Two bits of each minimum, those of each text beside each other, for `similarity`.

    Returns: (documents, SKETCH_WORDS) uint64.
    """
    with np.errstate(over="ignore"):  # the first of many runs is small: its high bits are all zero
        bits = (minima * np.uint32(0x9E3779B1)) >> np.uint32(30)
    return _packed(np.concatenate([bits[:, text::num_texts] for text in range(num_texts)], axis=1))


def similarity(some: Any, others: Any, num_texts: int) -> Any:
    """How alike each of some documents is to that of others: the least of its texts. (n,) float

    Args:
        some: their sketches. (n, SKETCH_WORDS)
        others: the same.
    """
    differs = some ^ others
    differs = (differs | (differs >> np.uint64(1))) & _LOW_BITS
    least = np.ones(len(some))
    for text, mask in enumerate(_masks(num_texts)):
        slots = len(range(text, SLOTS, num_texts))
        agree = 1 - np.bitwise_count(differs & mask).sum(axis=1, dtype=np.int64) / slots
        np.minimum(least, (agree - _BY_CHANCE) / (1 - _BY_CHANCE), out=least)
    return least


def spread(likeness: float, num_texts: int) -> float:
    """The standard deviation of what `similarity` tells of two documents that are so alike."""
    chance = likeness + (1 - likeness) * _BY_CHANCE
    return math.sqrt(chance * (1 - chance) * num_texts / SLOTS) / (1 - _BY_CHANCE)


def _minima(hashes: Any, bounds: Any, start: int, step: int) -> Any:
    """(every `step`-th slot, texts) uint32"""
    factors, offsets = (each[start::step] for each in _orders())
    has_any = np.diff(bounds) > 0
    found = np.full((len(factors), len(has_any)), _NOTHING)
    if not has_any.any():
        return found
    runs = (hashes >> np.uint64(32)).astype(np.uint32)
    ordered = np.empty_like(runs)
    for slot, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
        np.multiply(runs, factor, out=ordered)
        np.add(ordered, offset, out=ordered)
        found[slot, has_any] = np.minimum.reduceat(ordered, bounds[:-1][has_any])
    return found


@functools.cache
def _orders() -> tuple[Any, Any]:
    """Factors, which are odd, so that no two runs come to one place, and offsets. (SLOTS,) each"""
    random = mix64(np.arange(1, 2 * SLOTS + 1, dtype=np.uint64) << np.uint64(20))
    values = (random >> np.uint64(32)).astype(np.uint32)
    return values[:SLOTS] | np.uint32(1), values[SLOTS:]


def _packed(bits: Any) -> Any:
    """(n, SLOTS) numbers of two bits → (n, SKETCH_WORDS) uint64"""
    quarters = bits.astype(np.uint8).reshape(len(bits), -1, 4)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)
    return np.bitwise_or.reduce(quarters << shifts, axis=2).view("<u8")


@functools.cache
def _masks(num_texts: int) -> list[Any]:
    """The low bit of each minimum of a text, for each text."""
    owner = np.concatenate([np.full(len(range(t, SLOTS, num_texts)), t) for t in range(num_texts)])
    return [_packed((owner == text).astype(np.uint8)[None])[0] for text in range(num_texts)]
