"""Words and phrases that are looked for in texts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import regex

from raymodel.data.cleaning.record import Whole, is_of_unspaced_script

_WORD = regex.compile(r"\w+")


class Terms:
    """Terms that stand in a text as whole words; capitals do not matter. Those of scripts without
    spaces are found wherever they stand.

    Words and phrases are looked up, so that a long list costs no more than a short one; only terms
    with other signs in them (`c++`, `f*ck`) are searched for.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        small = {" ".join(term.casefold().split()) for term in terms} - {""}
        unspaced = {term for term in small if is_of_unspaced_script(term)}
        spaced = small - unspaced
        plain = {term for term in spaced if _WORD.fullmatch(term.replace(" ", ""))}
        of_words = {tuple(term.split()) for term in plain}
        self._words = frozenset(words[0] for words in of_words if len(words) == 1)
        self._phrases = frozenset(words for words in of_words if len(words) > 1)
        self._lengths = sorted({len(words) for words in self._phrases})
        # The longest first, so that it is found, and not a shorter one that it begins with.
        sought = sorted(small - plain, key=lambda term: (-len(term), term))
        patterns = [regex.escape(term) if term in unspaced else _at_edges(term) for term in sought]
        self._pattern = regex.compile("|".join(patterns)) if patterns else None
        self._plain, self._sought = sorted(plain), sorted(sought)
        self._most_chars = len(sought[0]) if sought else 0

    def __len__(self) -> int:
        return len(self._plain) + len(self._sought)

    def are_in(self, whole: Whole) -> bool:
        """Whether one of them is in a text."""
        if (self._words or self._phrases) and self._are_among(whole.tokens):
            return True
        return self._pattern is not None and self._pattern.search(whole.small) is not None

    def find(self, text: str) -> list[tuple[int, int]]:
        """Where in a text they are, from left to right; those that overlap are one."""
        small, places = _folded(text)
        spans = self._find_plain(small)
        if self._pattern is not None:
            spans += [match.span() for match in self._pattern.finditer(small)]
        merged: list[tuple[int, int]] = []
        for start, stop in sorted(spans):
            if merged and start < merged[-1][1]:
                merged[-1] = merged[-1][0], max(merged[-1][1], stop)
            else:
                merged.append((start, stop))
        return [(places[start], places[stop - 1] + 1) for start, stop in merged]

    def settled(self, text: str) -> int:
        """Up to where `find` says the same of a text whatever is written behind it: what may be the
        beginning of a term is not."""
        small, places = _folded(text)
        held = len(small)
        words = list(_WORD.finditer(small))[-max(self._lengths, default=1) :]
        is_whole = not words or words[-1].end() < len(small)
        for i, word in enumerate(words):
            begun = " ".join(each[0] for each in words[i:]) + (" " if is_whole else "")
            if _is_begin(begun, self._plain):
                held = word.start()
                break
        for place in range(max(0, len(small) - self._most_chars), held):
            if _is_begin(small[place:], self._sought):
                held = place
                break
        return places[held] if held < len(small) else len(text)

    def _find_plain(self, small: str) -> list[tuple[int, int]]:
        if not self._plain:
            return []
        words = list(_WORD.finditer(small))
        spans = [word.span() for word in words if word[0] in self._words]
        for n in self._lengths:
            for run in zip(*(words[i:] for i in range(n)), strict=False):
                if tuple(word[0] for word in run) in self._phrases:
                    spans.append((run[0].start(), run[-1].end()))
        return spans

    def _are_among(self, tokens: list[str]) -> bool:
        if not self._words.isdisjoint(tokens):
            return True
        return any(
            not self._phrases.isdisjoint(zip(*(tokens[i:] for i in range(n)), strict=False))
            for n in self._lengths
        )


def _at_edges(term: str) -> str:
    """No letter or digit beside a term that begins, or ends, with one."""
    before = r"(?<!\w)" if _WORD.match(term[0]) else ""
    after = r"(?!\w)" if _WORD.match(term[-1]) else ""
    return f"{before}{regex.escape(term, literal_spaces=True)}{after}"


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Without capitals, and the place in the text that each character of that comes from."""
    small = text.casefold()
    if len(small) == len(text):  # none becomes shorter, so each became one
        return small, range(len(text))
    return small, [place for place, char in enumerate(text) for _ in char.casefold()]


def _is_begin(text: str, terms: Sequence[str]) -> bool:
    """Whether one of the terms, which are in order, begins with the text."""
    place = bisect_left(terms, text)
    return place < len(terms) and terms[place].startswith(text)
