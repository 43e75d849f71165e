"""`gopher`: does a text look like prose?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import regex

from raymodel.data.cleaning.base import Judge
from raymodel.data.cleaning.record import Whole, share
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.base import UNSPACED
from raymodel.data.cleaning.spec.quality import GopherSpec

BULLETS = ("•", "‣", "◦", "⁃", "∙", "·", "●", "○", "■", "□", "▪", "▫", "►", "▶", "*", "-", "–", "—")
"""A line in a list begins with one of these. The paper names none; these are the bullets of Unicode
and what people type for one."""
ELLIPSES = ("…", "...")
_EDGES = regex.compile(r"^\P{Alnum}+|\P{Alnum}+$")


class Gopher(Judge[GopherSpec]):
    """arXiv:2112.11446, appendix A.1.1."""

    spec_class: ClassVar[type[StepSpec]] = GopherSpec

    def __init__(self, spec: GopherSpec) -> None:
        super().__init__(spec)
        self._common = frozenset(word.lower() for word in spec.common)
        self._low, self._high = spec.mean_word_chars

    def broken_rule(self, whole: Whole) -> str | None:
        """In the order in which they cost more."""
        words = whole.words(self.spec.unit)
        if self.spec.unit == "words" and whole.is_unspaced:
            return UNSPACED
        return (
            self._of_length(words)
            or self._of_symbols(whole, len(words))
            or self._of_lines(whole.lines)
            or self._of_language(words)
        )

    def _of_length(self, words: Sequence[str]) -> str | None:
        if len(words) < self.spec.min_words:
            return "min_words"
        if len(words) > self.spec.max_words:
            return "max_words"
        mean = share(len("".join(words)), len(words))
        if mean < self._low:
            return "min_mean_word_chars"
        return "max_mean_word_chars" if mean > self._high else None

    def _of_symbols(self, whole: Whole, num_words: int) -> str | None:
        most, text = self.spec.max_symbols_by_word, whole.text
        if share(text.count("#"), num_words) > most:
            return "hashes"
        return "ellipses" if share(sum(map(text.count, ELLIPSES)), num_words) > most else None

    def _of_lines(self, lines: Sequence[str]) -> str | None:
        bullets = sum(line.startswith(BULLETS) for line in lines)
        if share(bullets, len(lines)) > self.spec.max_bullet_lines_frac:
            return "bullet_lines"
        ends = share(sum(line.endswith(ELLIPSES) for line in lines), len(lines))
        return "ellipsis_lines" if ends > self.spec.max_ellipsis_lines_frac else None

    def _of_language(self, words: Sequence[str]) -> str | None:
        with_letter = sum(word.isalpha() or any(map(str.isalpha, word)) for word in words)
        if share(with_letter, len(words)) < self.spec.min_alphabetic_frac:
            return "alphabetic"
        return None if self._has_stop_words(words) else "stop_words"

    def _has_stop_words(self, words: Sequence[str]) -> bool:
        wanted = self.spec.min_stop_words if self._common else 0
        found = set[str]()
        for word in words:
            if len(found) >= wanted:
                break
            plain = _EDGES.sub("", word).lower()
            if plain in self._common:
                found.add(plain)
        return len(found) >= wanted
