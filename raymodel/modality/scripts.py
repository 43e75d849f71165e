"""Which script a text is in, and which scripts put spaces between words."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import regex

UNSPACED_SCRIPTS = (
    "Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan",
)  # fmt: skip
"""Those in which no space stands between two words, as Unicode calls them. Korean has spaces."""
UNSPACED_CLASS = "".join(rf"\p{{{script}}}" for script in UNSPACED_SCRIPTS) + "ーｰ"
"""Their characters, within the brackets of a regular expression of `regex`. The mark of long vowels
is of both kana, and so of no script."""
# The signs that stand among them belong to no script: punctuation and symbols of Chinese and
# Japanese, what they enclose in circles, forms for columns, and full width
# (https://www.unicode.org/Public/16.0.0/ucd/Blocks.txt). What is Korean among these is not meant.
_SIGNS = r"\u3000-\u30ff\u3190-\u33ff\ufe30-\ufe4f\uff00-\uffef"
_WITHOUT_SPACES = regex.compile(rf"(?V1)[[{UNSPACED_CLASS}{_SIGNS}]--\p{{Hangul}}]+")

KANA, OTHER = "Kana", "other"
"""Hiragana and katakana, which stand in one text; and all scripts beside the common ones."""
_COMMON_SCRIPTS = {
    **{script: rf"\p{{{script}}}" for script in (
        "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Han", "Bopomofo", "Hangul", "Thai",
        "Lao", "Khmer", "Myanmar", "Tibetan", "Devanagari", "Bengali", "Gujarati", "Gurmukhi",
        "Kannada", "Malayalam", "Oriya", "Sinhala", "Tamil", "Telugu", "Thaana", "Armenian",
        "Georgian", "Ethiopic",
    )},
    KANA: r"\p{Hiragana}\p{Katakana}",
    # Digits, signs and marks are of no script.
    OTHER: r"^\p{Common}\p{Inherited}\p{Unknown}",
}  # fmt: skip
"""Those in use today, UAX #31, table 5 (https://www.unicode.org/reports/tr31/), with their
characters."""
_NAMES = (None, *_COMMON_SCRIPTS)
_NUM_POINTS = 0x110000
_ASSIGNED = 0x40000  # all characters of scripts are below
_BLOCK_CHARS = 2**20  # that are looked at together: 13 MB of arrays


def is_written_without_spaces(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words, or a sign that stands
    among such."""
    return _WITHOUT_SPACES.match(character) is not None


@functools.cache
def unspaced_table() -> Any:
    """The same for every code point. (0x110000,) bool"""
    import numpy as np

    table = np.zeros(_NUM_POINTS, dtype=bool)
    for found in _WITHOUT_SPACES.finditer(_all_characters()):
        table[slice(*found.span())] = True
    return table


def find_script(texts: Sequence[str]) -> str | None:
    """The script that most characters of some texts are of, among those that are of one; None where
    there are no such. Of several with as many it is the same each time.

    Names are those of Unicode, but for `KANA` and `OTHER`. Japanese is in whatever it has more of,
    kana or Han.
    """
    if all(map(str.isascii, texts)):
        return "Latin" if any(map(_ASCII_LETTER.search, texts)) else None
    import numpy as np

    counts = np.zeros(len(_NAMES), dtype=np.int64)
    for block in _blocks(texts):
        points = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        counts += np.bincount(_script_table()[points], minlength=len(_NAMES))
    counts[0] = 0
    return _NAMES[int(counts.argmax())]


_ASCII_LETTER = regex.compile("[a-zA-Z]")


def _blocks(texts: Sequence[str]) -> Iterator[str]:
    joined = "".join(texts)
    for start in range(0, len(joined), _BLOCK_CHARS):
        yield joined[start : start + _BLOCK_CHARS]


@functools.cache
def _script_table() -> Any:
    """The place among `_NAMES` of each code point. (0x110000,) uint8"""
    import numpy as np

    # Runs of one script, so that the alternatives are tried once for each of them. A run of other
    # scripts would go on into those that are common.
    runs = regex.compile(
        "|".join(
            f"([{characters}]{'' if name == OTHER else '+'})"
            for name, characters in _COMMON_SCRIPTS.items()
        )
    )
    table = np.zeros(_NUM_POINTS, dtype=np.uint8)
    for found in runs.finditer(_all_characters()):
        table[slice(*found.span())] = found.lastindex
    return table


def _all_characters() -> str:
    """Each at the place of its number."""
    return "".join(map(chr, range(_ASSIGNED)))
