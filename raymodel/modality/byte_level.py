"""Vocabularies of bytes: how they are written, and between which characters no token can lie."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from raymodel.modality.unspaced import HASH_BITS, pair_hashes

_BREAK = "\ud800"  # between tokens; no byte that is part of a character becomes this one
_BROKEN = 0xDC80  # and what follows: such bytes, as Python's `surrogateescape` writes them


@functools.cache
def byte_alphabet() -> Mapping[str, int]:
    """The character that stands for each byte in a byte-level vocabulary: a visible Latin-1 one
    for itself, the others counted from 256, as GPT-2 does."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + index): byte for index, byte in enumerate(hidden)
    }


class Joins:
    """Which characters stand side by side in a token of a byte-level BPE.

    Merges make tokens of the vocabulary, so none goes across two characters that no token holds
    side by side: the ids of a word are those of its parts before and after them. Chinese, of which
    few words are met twice, falls into characters and pairs of them, of which nearly all are.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        """Reads a vocabulary, as it is written."""
        alphabet = {ord(character): byte for character, byte in byte_alphabet().items()}
        parts = [
            bytes(map(alphabet.__getitem__, map(ord, token))).decode("utf-8", "surrogateescape")
            for token in tokens
            if all(ord(character) in alphabet for character in token)
        ]
        codes = _codes(_BREAK.join(parts))
        left, right = codes[:-1], codes[1:]
        within = (left != ord(_BREAK)) & (right != ord(_BREAK))
        left, right = left[within], right[within]
        is_whole = ~(_is_broken(left) | _is_broken(right))
        self._pairs = np.zeros(2**HASH_BITS, dtype=bool)
        self._pairs[pair_hashes(left[is_whole], right[is_whole])] = True
        # A token that ends in the middle of a character may go on in many.
        self._bytes = np.zeros((256, 256), dtype=bool)
        self._bytes[_last_bytes(left[~is_whole]), _first_bytes(right[~is_whole])] = True

    def has(self, left: Any, right: Any) -> Any:
        """Whether some token may hold these characters side by side. (n,) code points each, (n,)
        bool"""
        found: Any = self._pairs[pair_hashes(left, right)]
        return found | self._bytes[_last_bytes(left), _first_bytes(right)]


def _codes(text: str) -> Any:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _is_broken(codes: Any) -> Any:
    return (codes >= _BROKEN) & (codes <= 0xDCFF)


def _first_bytes(codes: Any) -> Any:
    """Of each character in UTF-8; of what is a single byte, itself."""
    lead = np.where(
        codes < 0x800,
        0xC0 | (codes >> 6),
        np.where(codes < 0x10000, 0xE0 | (codes >> 12), 0xF0 | (codes >> 18)),
    )
    return np.where((codes < 0x80) | _is_broken(codes), codes & 0xFF, lead)


def _last_bytes(codes: Any) -> Any:
    return np.where((codes < 0x80) | _is_broken(codes), codes & 0xFF, 0x80 | (codes & 0x3F))
