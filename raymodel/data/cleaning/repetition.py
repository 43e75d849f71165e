"""`repetition`: how much of a text stood in it before?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from raymodel.data.cleaning.base import Judge
from raymodel.data.cleaning.record import Whole, repeated_chars_frac, share
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.base import UNSPACED
from raymodel.data.cleaning.spec.quality import REPEATED_NGRAMS, TOP_NGRAMS, RepetitionSpec


class Repetition(Judge[RepetitionSpec]):
    """arXiv:2112.11446, table A1."""

    spec_class: ClassVar[type[StepSpec]] = RepetitionSpec

    def broken_rule(self, whole: Whole) -> str | None:
        """Lines and paragraphs first, which cost less."""
        if self.spec.unit == "words" and whole.is_unspaced:
            return UNSPACED
        return self._of_parts(whole) or self._of_sequences(whole.words(self.spec.unit))

    def _of_parts(self, whole: Whole) -> str | None:
        for rule, parts, most, most_chars in (
            ("line", whole.lines, self.spec.max_lines_frac, self.spec.max_line_chars_frac),
            (
                "paragraph",
                whole.paragraphs,
                self.spec.max_paragraphs_frac,
                self.spec.max_paragraph_chars_frac,
            ),
        ):
            repeated = len(parts) - len(set(parts))
            if not repeated:
                continue
            if share(repeated, len(parts)) > most:
                return f"{rule}s"
            if repeated_chars_frac(parts) > most_chars:
                return f"{rule}_chars"
        return None

    def _of_sequences(self, words: Sequence[str]) -> str | None:
        known: dict[str, int] = {}
        numbers = [known.setdefault(word, len(known)) for word in words]
        if len(known) == len(numbers):
            return None
        lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
        total = int(lengths.sum())
        top = dict(zip(TOP_NGRAMS, self.spec.max_top_chars_frac, strict=True))
        repeated = dict(zip(REPEATED_NGRAMS, self.spec.max_repeated_chars_frac, strict=True))
        for n, ids, firsts, counts in _sequences(np.array(numbers), len(known)):
            if len(firsts) == len(ids):
                return None  # a longer sequence repeats no more than its beginning does
            if n in top:
                starts = _most_frequent(ids, counts, lengths, n)
                if share(_covered(starts, n, lengths), total) > top[n]:
                    return f"top_{n}"
            if n in repeated:
                is_repeated = np.ones(len(ids), dtype=bool)
                is_repeated[firsts] = False
                covered = _covered(np.flatnonzero(is_repeated), n, lengths)
                if share(covered, total) > repeated[n]:
                    return f"repeated_{n}"
        return None


def _sequences(words: Any, num_known: int) -> Iterator[tuple[int, Any, Any, Any]]:
    """For each length from 2: the numbers of the sequences that begin at each word, equal ones
    alike, densely from 0; where each number is first; how many each has.

    Exact: the number of a sequence is made of that of its beginning and that of its last word.

    Args:
        words: their numbers, from 0.
        num_known: different words.
    """
    ids = words
    for n in range(2, min(max(REPEATED_NGRAMS), len(words)) + 1):
        pairs = ids[:-1] * num_known + words[n - 1 :]
        _, firsts, ids, counts = np.unique(
            pairs, return_index=True, return_inverse=True, return_counts=True
        )
        yield n, ids, firsts, counts


def _most_frequent(ids: Any, counts: Any, lengths: Any, n: int) -> Any:
    """Where the most frequent sequence begins; of several as frequent, the longest one, of those
    the first."""
    frequent = np.flatnonzero((counts == counts.max())[ids])
    reach = np.concatenate(([0], np.cumsum(lengths)))
    chars = reach[frequent + n] - reach[frequent]
    return np.flatnonzero(ids == ids[frequent[int(np.argmax(chars))]])


def _covered(starts: Any, n: int, lengths: Any) -> int:
    """Characters in the sequences of `n` words that begin there, each counted once."""
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + n, -1)
    return int(lengths[np.cumsum(edges[:-1]) > 0].sum())
