"""From tokens to text, piece by piece: whole characters only, and never past a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"
# A token adds at least one byte and a character has at most four, so text that is still incomplete
# after this many tokens is not valid UTF-8: the model wrote stray bytes, which then show as U+FFFD.
_MOST_PENDING = 12


class Detokenizer:
    """Decodes one answer incrementally; the pieces joined are the decoded answer.

    A token may hold a part of a character, and its text may depend on the token before it (the
    leading space of SentencePiece), so each piece is decoded behind the tokens of the piece before.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character is incomplete."""
        self._pending.append(token)
        text = self._decode(self._context + self._pending)
        if text.endswith(_REPLACEMENT) and len(self._pending) < _MOST_PENDING:
            return ""
        return self._take(text)

    def flush(self) -> str:
        """What is left at the end: stray bytes of a character that was never completed."""
        return self._take(self._decode(self._context + self._pending)) if self._pending else ""

    def _take(self, text: str) -> str:
        piece = text[len(self._context_text) :]
        self._context, self._pending = self._pending, []
        self._context_text = self._decode(self._context)
        return piece


class StopText:
    """Holds back text that may turn out to be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Returns the text to give out, and whether a stop string was found behind it."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = self._longest_beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def flush(self) -> str:
        """The held text, at an end that no stop string made."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """Length of the longest tail of `text` with which a stop string begins."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
