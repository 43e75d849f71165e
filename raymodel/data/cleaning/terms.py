"""Words and phrases that are looked for in texts."""

from __future__ import annotations

from collections.abc import Iterable

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
        patterns = [_at_edges(term) for term in sorted(spaced - plain)]
        patterns += [regex.escape(term) for term in sorted(unspaced)]
        self._pattern = regex.compile("|".join(patterns)) if patterns else None

    def are_in(self, whole: Whole) -> bool:
        """Whether one of them is in a text."""
        if (self._words or self._phrases) and self._are_among(whole.tokens):
            return True
        return self._pattern is not None and self._pattern.search(whole.small) is not None

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
