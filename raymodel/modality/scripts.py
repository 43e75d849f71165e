"""Which scripts put spaces between words."""

from __future__ import annotations

import re

# Blocks of Unicode 16 (https://www.unicode.org/Public/16.0.0/ucd/Blocks.txt): Thai, Lao; Myanmar;
# Khmer; Chinese and Japanese with their punctuation, in full width too. Korean has spaces.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U000323af]"
)


def is_written_without_spaces(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    return _WITHOUT_SPACES.match(character) is not None
