"""One answer in the making, and the chunks that it is delivered in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from raymodel.serve.sampling import Sampling
from raymodel.serve.text import Detokenizer, StopText

if TYPE_CHECKING:
    from raymodel.serve.form import FormState

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "content_filter"]


class Scored(NamedTuple):
    """A token and how probable the model held it."""

    token: int
    logprob: float
    """Natural logarithm of its probability."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens of its place with theirs, the likeliest first."""


class Placed(NamedTuple):
    """A token of an answer with its place in the text."""

    scored: Scored
    offset: int
    """Characters of the answer before it."""


class Chunk(NamedTuple):
    """What is new since the chunk before."""

    text: str
    num_tokens: int
    """Tokens generated so far, the end token included."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk: `stop` (end token or stop string) or `length`."""
    error: Exception | None = None
    """Set on the last chunk of an answer that failed."""
    tokens: tuple[Placed, ...] = ()
    """The text's tokens, where log-probabilities are asked for."""
    prompt: tuple[Scored, ...] = ()
    """On the first chunk, where those of the prompt are: its tokens but the first."""

    def __add__(self, after: Chunk) -> Chunk:  # type: ignore[override]
        """Both in one."""
        return Chunk(
            self.text + after.text,
            after.num_tokens,
            after.finish_reason,
            after.error,
            self.tokens + after.tokens,
            self.prompt + after.prompt,
        )


@dataclass(eq=False)
class Answer:
    """The state of one prompt's answer; used by the engine's thread alone, but for `is_aborted`."""

    prompt: list[int]
    sampling: Sampling
    decode: Callable[[Sequence[int]], str]
    deliver: Callable[[Chunk], None]
    ends: frozenset[int] = frozenset()
    """The tokens at which it ends."""
    on_slot: Callable[[], None] = lambda: None
    """Called when it has a slot."""
    tokens: list[int] = field(default_factory=list)
    """Generated so far."""
    prompt_scores: list[Scored] = field(default_factory=list)
    """Of the prompt's tokens but the first, as far as it has been read, where they are asked for;
    taken by the first chunk."""
    form: FormState | None = None
    """How far it has come in the form that is asked of it; kept by the runner that sees to it."""
    num_drafted: int = 0
    """Tokens that a draft wrote ahead of it; see `serve.draft`."""
    num_accepted: int = 0
    """Those of them that the model took; behind an end some may be that are none of the answer."""
    is_aborted: bool = False
    """Nobody waits for this any more."""

    def __post_init__(self) -> None:
        self.draws = self.sampling.draws()
        self.submitted_s = time.monotonic()
        self._detokenizer = Detokenizer(self.decode)
        self._stop_text = StopText(self.sampling.stop)
        self._num_chars = 0  # of the text of all tokens
        self._num_given = 0  # of the text that was given out, or is with the next chunk
        self._placed: list[Placed] = []  # whose text is still held back

    def add(self, token: int, scored: Scored | None = None, *, is_full: bool) -> bool:
        """Takes the next token and delivers what it makes certain.

        Args:
            scored: the same token with its log-probability, where that is asked for.
            is_full: the context has no room for one more.

        Returns:
            Whether the answer is finished.
        """
        if self.sampling.max_tokens == 0:  # what follows the prompt is not asked for
            self._deliver("", "length", is_whole=True)
            return True
        self.tokens.append(token)
        if scored is not None:
            self._placed.append(Placed(scored, self._num_chars))
        is_end = token in self.ends  # it has no text
        text, is_stopped = ("", False) if is_end else self._push(self._detokenizer.push(token))
        reason: FinishReason | None = "stop" if is_end or is_stopped else None
        if reason is None and (is_full or len(self.tokens) >= self.sampling.max_tokens):
            reason = "length"
        if reason and not is_stopped:
            rest, is_stopped = self._push(self._detokenizer.flush())
            text += rest + ("" if is_stopped else self._stop_text.flush())
            reason = "stop" if is_stopped else reason
        if text or reason:
            self._deliver(text, reason, is_whole=reason is not None and not is_stopped)
        return reason is not None

    def take_up(self) -> None:
        """It has a slot."""
        self._tell(self.on_slot)

    def fail(self, error: Exception) -> None:
        """Ends the answer with an error."""
        self._tell(self.deliver, Chunk("", len(self.tokens), error=error))

    def _push(self, text: str) -> tuple[str, bool]:
        self._num_chars += len(text)
        if len(self.tokens) <= self.sampling.min_tokens:
            return text, False
        return self._stop_text.push(text)

    def _deliver(self, text: str, reason: FinishReason | None, *, is_whole: bool) -> None:
        """Sends a chunk, with the tokens whose text has been given out.

        Args:
            is_whole: nothing of the answer's text was cut off, and no more comes.
        """
        self._num_given += len(text)
        told = tuple(p for p in self._placed if is_whole or p.offset < self._num_given)
        del self._placed[: len(told)]
        prompt, self.prompt_scores = tuple(self.prompt_scores), []
        chunk = Chunk(text, len(self.tokens), reason, tokens=told, prompt=prompt)
        self._tell(self.deliver, chunk)

    def _tell(self, call: Callable[..., None], *given: Chunk) -> None:
        try:
            call(*given)
        except RuntimeError as error:  # the receiver's event loop is closed: nobody is there
            log.warning("an answer could not be delivered (%s); it is ended", error)
            self.is_aborted = True
