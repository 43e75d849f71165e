"""Texts cut into words, as byte-level tokenizers do it before anything else.

The library's engine of regular expressions takes longer to find them than all that follows. Here
they are found in many texts at once, over arrays of their characters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from raymodel.modality.byte_level import Joins, byte_alphabet
from raymodel.modality.unspaced import MARK, batches

END = "\U0010fffe"
"""Behind a text. A code point that no text may hold (Unicode 16, 23.7), like `MARK`."""
_UNKNOWN, _SPACE, _LETTER, _NUMBER, _OTHER, _BETWEEN = range(6)
_CLASSES = {_SPACE: r"\s", _LETTER: r"\p{L}", _NUMBER: r"\p{N}"}
_WRITTEN_CHARS = 2**18
"""While some are written, the threads that count words have others."""
_CONTRACTIONS = ("s", "t", "m", "d", "re", "ve", "ll")


def find_words(texts: Sequence[str], joins: Joins) -> list[str] | None:
    """The words of texts, cut where no token lies across, with `END` behind those of each text;
    None where a text holds `MARK` or `END`.

    They are those of byte-level tokenizers since GPT-2 (https://github.com/openai/gpt-2):
    `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`.
    """
    codes = _codes(texts)
    if int((codes >= ord(END)).sum()) != len(texts):
        return None
    begins = _begins(codes)
    # Of words in ASCII nearly all pairs of characters are in some token.
    within = 1 + np.flatnonzero((codes[1:] >= 0x80) & (codes[:-1] >= 0x80) & ~begins[1:])
    begins[within] = ~joins.has(codes[within - 1], codes[within])
    return _marked(codes, begins).split(MARK)


def byte_words(texts: Iterable[str]) -> Iterator[str]:
    """The same words of each text, in the alphabet of byte-level vocabularies, with spaces between
    them. Where a text holds `MARK` it is cut, as if it ended there."""
    mark, end = _written(MARK), _written(END)
    for batch in batches(texts, _WRITTEN_CHARS):
        codes = _codes(batch)
        written = _written(_marked(codes, _begins(codes))).replace(mark, " ")
        yield from written.split(end)[:-1]


def _written(text: str) -> str:
    """Its bytes in that alphabet."""
    letters = _letters()[np.frombuffer(text.encode(), dtype=np.uint8)]
    return str(letters.tobytes().decode("utf-16-le"))


@functools.cache
def _letters() -> Any:
    """The character that stands for each byte. (256,) uint16"""
    letters = np.zeros(256, dtype="<u2")
    for character, byte in byte_alphabet().items():
        letters[byte] = ord(character)
    return letters


def _codes(texts: Sequence[str]) -> Any:
    """The characters of texts, each with `END` behind it. (n,) uint32"""
    return np.frombuffer("".join([text + END for text in texts]).encode("utf-32-le"), dtype="<u4")


def _marked(codes: Any, begins: Any) -> str:
    """With `MARK` before each word but the first."""
    marked = np.insert(codes, 1 + np.flatnonzero(begins[1:]), ord(MARK))
    return marked.tobytes().decode("utf-32-le")


def _begins(codes: Any) -> Any:
    """Where words begin. (n,) bool"""
    classes = _classes_of(codes)
    begins = np.ones(len(codes), dtype=bool)
    changes = classes[1:] != classes[:-1]
    is_space = classes == _SPACE
    # One space goes with the word after it.
    begins[1:] = changes & ((codes[:-1] != ord(" ")) | is_space[1:] | (classes[1:] == _BETWEEN))
    # Of white space the last goes by itself, or with the word, but at the end of a text.
    begins[1:-1] |= is_space[1:-1] & is_space[:-2] & changes[1:] & (classes[2:] != _BETWEEN)
    apostrophes = np.flatnonzero((codes == ord("'")) & begins)
    for letters in _CONTRACTIONS:
        found = apostrophes
        for place, letter in enumerate(letters, 1):
            found = found[codes[np.minimum(found + place, len(codes) - 1)] == ord(letter)]
        begins[found + 1] = False
        begins[found + 1 + len(letters)] = True
    return begins | (classes == _BETWEEN)


def _classes_of(codes: Any) -> Any:
    """(n,) uint8"""
    table = _table()
    found = table[codes]
    if not found.all():
        new = np.unique(codes[found == _UNKNOWN])
        table[new] = _ask(new)
        found = table[codes]
    return found


@functools.cache
def _table() -> Any:
    """The class of each code point that the library was asked of. (0x110000,) uint8"""
    table = np.full(0x110000, _UNKNOWN, dtype=np.uint8)
    table[[ord(END), ord(MARK)]] = _BETWEEN
    return table


def _ask(points: Any) -> Any:
    """The classes of characters to the library: other engines know another Unicode."""
    from tokenizers import Regex, pre_tokenizers

    characters = points.astype("<u4").tobytes().decode("utf-32-le")
    classes = np.full(len(points), _OTHER, dtype=np.uint8)
    for number, expression in _CLASSES.items():
        has = np.ones(len(points), dtype=bool)
        without = pre_tokenizers.Split(Regex(expression), behavior="removed")
        for _, (start, stop) in without.pre_tokenize_str(characters):
            has[start:stop] = False
        classes[has] = number
    return classes
