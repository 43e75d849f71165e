"""Texts as numbers that stand for their words, and for runs of words.

Case, punctuation, white space and the ways in which Unicode writes one character are nothing here.
Everything is done for many texts at once, over arrays of their characters.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from raymodel.chance import mix64
from raymodel.modality.scripts import unspaced_table

BATCH_CHARS = 2**20
"""Characters that are looked at together: some 30 MB of arrays. Longer texts are cut there."""
_BETWEEN, _IN_WORD, _ALONE = range(3)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd: Knuth, 6.4
_BASE = np.uint64(0xD6E8FEB86659FD93)  # odd, so that its powers never become zero


class Runs(NamedTuple):
    """Numbers of 64 bits, those of one text after those of another."""

    hashes: Any
    """(n,) uint64"""
    bounds: Any
    """Where those of each text begin, and where the last ends. (texts + 1,) int64"""


def batches(texts: Sequence[Sequence[str]]) -> Iterator[slice]:
    """Documents that are looked at together, each given by its texts."""
    start = chars = 0
    for index, document in enumerate(texts):
        chars += sum(map(len, document))
        if chars >= BATCH_CHARS:
            yield slice(start, index + 1)
            start, chars = index + 1, 0
    if start < len(texts):
        yield slice(start, len(texts))


def words_of(texts: Sequence[str]) -> Runs:
    """A number for each word: equal words have equal ones, and of others none by chance."""
    pieces, owners = list[str](), list[int]()
    for owner, text in enumerate(texts):
        for start in range(0, len(text), BATCH_CHARS):
            pieces.append(unicodedata.normalize("NFKC", text[start : start + BATCH_CHARS]).lower())
            owners.append(owner)
    hashes, counts = list[Any](), np.zeros(len(texts), dtype=np.int64)
    start = 0
    for part in batches([[piece] for piece in pieces]):
        found = _words(pieces[part])
        hashes.append(found.hashes)
        np.add.at(counts, owners[part], np.diff(found.bounds))
        start = part.stop
    assert start == len(pieces), "each piece is in a batch"
    return Runs(np.concatenate(hashes) if hashes else np.empty(0, np.uint64), _bounds(counts))


def runs_of(words: Runs, length: int, *, short: bool) -> Runs:
    """A number for each run of so many words of a text.

    Args:
        short: whether a text of fewer words, but of some, has one of all its words; else none.
    """
    hashes, bounds = words
    counts = np.diff(bounds)
    runs = np.maximum(counts - length + 1, 0)
    sums = np.zeros(max(len(hashes) - length + 1, 0), dtype=np.uint64)
    weight = np.uint64(1)
    with np.errstate(over="ignore"):
        for i in range(length):
            sums += hashes[i : i + len(sums)] * weight
            weight *= _BASE
    # A run begins at each word but the last ones of its text.
    first = np.repeat(bounds[:-1], runs)
    places = first + np.arange(len(first)) - np.repeat(_bounds(runs)[:-1], runs)
    whole = mix64(sums[places])
    if not short:
        return Runs(whole, _bounds(runs))
    is_short = (counts > 0) & (runs == 0)
    all_runs = _bounds(runs + is_short)
    found = np.empty(all_runs[-1], dtype=np.uint64)
    is_whole = np.ones(len(found), dtype=bool)
    is_whole[all_runs[:-1][is_short]] = False
    found[is_whole] = whole
    found[~is_whole] = _of_short(hashes, bounds[:-1][is_short], counts[is_short])
    return Runs(found, all_runs)


def whole_of(words: Runs) -> tuple[Any, Any]:
    """A number for all words of each text in their order, and whether it has any. (texts,) each"""
    hashes, bounds = words
    counts = np.diff(bounds)
    found, has_any = np.zeros(len(counts), dtype=np.uint64), counts > 0
    if has_any.any():
        place = np.arange(len(hashes)) - np.repeat(bounds[:-1], counts)
        with np.errstate(over="ignore"):
            weighted = hashes * _powers(int(counts.max()))[place]
        found[has_any] = mix64(np.add.reduceat(weighted, bounds[:-1][has_any]))
    return found, has_any


def _of_short(hashes: Any, starts: Any, counts: Any) -> Any:
    """One number for each text of few words."""
    sums, weight = counts.astype(np.uint64), np.uint64(1)
    with np.errstate(over="ignore"):
        for i in range(int(counts.max(initial=0))):
            has = counts > i
            sums[has] += hashes[starts[has] + i] * weight
            weight *= _BASE
    return mix64(sums)


def _words(texts: Sequence[str]) -> Runs:
    joined = "".join(text + "\n" for text in texts).encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(joined, dtype="<u4")
    kinds = _kinds()[points]
    in_word, alone = kinds == _IN_WORD, kinds == _ALONE
    first, last = alone.copy(), alone.copy()
    first[0] |= in_word[0]
    first[1:] |= in_word[1:] & ~in_word[:-1]
    last[:-1] |= in_word[:-1] & ~in_word[1:]  # the last character ends a line
    starts, ends = np.flatnonzero(first), np.flatnonzero(last) + 1
    lengths = np.array([len(text) + 1 for text in texts], dtype=np.int64)
    bounds = np.searchsorted(starts, _bounds(lengths))
    if not len(starts):
        return Runs(np.empty(0, dtype=np.uint64), bounds)
    sizes = ends - starts
    offsets = _bounds(sizes)[:-1]
    place = np.arange(int(sizes.sum())) - np.repeat(offsets, sizes)
    with np.errstate(over="ignore"):
        values = (points[kinds != _BETWEEN].astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
        values *= _powers(int(sizes.max()))[place]
    return Runs(mix64(np.add.reduceat(values, offsets)), bounds)


def _bounds(counts: Any) -> Any:
    bounds = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=bounds[1:])
    return bounds


def _powers(count: int) -> Any:
    """Of the base, from the first on."""
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(count, _BASE))


@functools.cache
def _kinds() -> Any:
    """What each character of Unicode is: between words, part of one, or a word by itself."""
    kinds = np.full(sys.maxunicode + 1, _BETWEEN, dtype=np.uint8)
    is_alone = unspaced_table()
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point))[0] in "LMN":  # letters, marks on them, numbers
            kinds[point] = _ALONE if is_alone[point] else _IN_WORD
    return kinds
