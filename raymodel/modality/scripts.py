"""Which scripts put spaces between words."""

from __future__ import annotations

import functools
import re
from typing import Any

# Blocks of Unicode 16 (https://www.unicode.org/Public/16.0.0/ucd/Blocks.txt): Thai, Lao; Myanmar;
# Khmer; Chinese and Japanese with their punctuation, in full width too. Korean has spaces.
_BLOCKS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF)),
    *((0x2E80, 0x9FFF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF00, 0xFFEF), (0x20000, 0x323AF)),
)
_WITHOUT_SPACES = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _BLOCKS)}]")


def is_written_without_spaces(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    return _WITHOUT_SPACES.match(character) is not None


@functools.cache
def unspaced_table() -> Any:
    """The same for every code point. (0x110000,) bool"""
    import numpy as np

    table = np.zeros(0x110000, dtype=bool)
    for first, last in _BLOCKS:
        table[first : last + 1] = True
    return table
