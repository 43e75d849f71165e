"""One answer in the making, and the chunks that it is delivered in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from raymodel.serve.sampling import Sampling
from raymodel.serve.text import Detokenizer, StopText

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length"]


class Chunk(NamedTuple):
    """What is new since the chunk before."""

    text: str
    num_tokens: int
    """Tokens generated so far, the end token included."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk: `stop` (end token or stop string) or `length`."""
    error: Exception | None = None
    """Set on the last chunk of an answer that failed."""


@dataclass(eq=False)
class Answer:
    """The state of one prompt's answer; used by the engine's thread alone, but for `is_aborted`."""

    prompt: list[int]
    sampling: Sampling
    decode: Callable[[Sequence[int]], str]
    deliver: Callable[[Chunk], None]
    tokens: list[int] = field(default_factory=list)
    """Generated so far."""
    is_aborted: bool = False
    """Nobody waits for this any more."""

    def __post_init__(self) -> None:
        self.draws = self.sampling.draws()
        self.submitted_s = time.monotonic()
        self._detokenizer = Detokenizer(self.decode)
        self._stop_text = StopText(self.sampling.stop)

    def add(self, token: int, *, is_end: bool, is_full: bool) -> bool:
        """Takes the next token and delivers what it makes certain.

        Args:
            is_end: an end token, which has no text.
            is_full: the context has no room for one more.

        Returns:
            Whether the answer is finished.
        """
        self.tokens.append(token)
        text, is_stopped = ("", False) if is_end else self._push(self._detokenizer.push(token))
        reason: FinishReason | None = "stop" if is_end or is_stopped else None
        if reason is None and (is_full or len(self.tokens) >= self.sampling.max_tokens):
            reason = "length"
        if reason and not is_stopped:
            rest, is_stopped = self._push(self._detokenizer.flush())
            text += rest + ("" if is_stopped else self._stop_text.flush())
            reason = "stop" if is_stopped else reason
        if text or reason:
            self._deliver(Chunk(text, len(self.tokens), reason))
        return reason is not None

    def fail(self, error: Exception) -> None:
        """Ends the answer with an error."""
        self._deliver(Chunk("", len(self.tokens), error=error))

    def _push(self, text: str) -> tuple[str, bool]:
        return self._stop_text.push(text)

    def _deliver(self, chunk: Chunk) -> None:
        try:
            self.deliver(chunk)
        except RuntimeError as error:  # the receiver's event loop is closed: nobody is there
            log.warning("an answer could not be delivered (%s); it is ended", error)
            self.is_aborted = True
