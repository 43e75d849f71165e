"""Where sentences end, in a text that may go on."""

from __future__ import annotations

import regex

# What ends one, with the quotes and brackets that it closes: before white space, or anywhere in
# scripts without spaces. A line end ends one too.
_END = regex.compile(
    r"[\p{STerm}]+[\p{Pe}\p{Pf}\"']*(?=\s)|[。！？]+[\p{Pe}\p{Pf}]*(?=.)|\n", regex.S
)
_SPACE = regex.compile(r"\s")
MOST_CHARS = 1000
"""A sentence that is longer ends at a word: code, for instance, may have no other end."""


def last_end(text: str, start: int, stop: int) -> int:
    """Where the last sentence of a piece of a text ends, before `stop`; `start` where none does.

    Args:
        start: of the first sentence.
    """
    end = start
    for match in _END.finditer(text, start):
        if match.end() > stop:
            break
        end = match.end()
    if stop - end > MOST_CHARS:
        return next(
            (place for place in range(stop - 1, end, -1) if _SPACE.match(text, place)), stop
        )
    return end


def sentences(text: str) -> list[str]:
    """The sentences of a text; none is blank."""
    ends = [match.end() for match in _END.finditer(text)]
    found = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [sentence for sentence in found if sentence.strip()]
