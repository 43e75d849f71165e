"""An answer as it goes out: pieces of text with the tokens that they are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from raymodel.serve.answer import Chunk, FinishReason
from raymodel.serve.streams import AnswerStream
from raymodel.serve.text import Detokenizer
from raymodel.tasks.token_bytes import read_token_bytes


class Entry(NamedTuple):
    """A token with its log-probability and its place."""

    token: int
    logprob: float | None
    """None of a prompt's first token, which nothing stands before."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens of its place, and theirs."""
    offset: int
    """Characters of the text before it."""


class Piece(NamedTuple):
    """What is new of one answer."""

    text: str
    entries: tuple[Entry, ...] = ()
    finish_reason: FinishReason | None = None

    def __add__(self, after: Piece) -> Piece:  # type: ignore[override]
        """Both in one."""
        entries = self.entries + after.entries
        return Piece(self.text + after.text, entries, after.finish_reason)


class Echo(NamedTuple):
    """A prompt that stands before its answer."""

    text: str
    tokens: Sequence[int] = ()
    """Where log-probabilities are told of them."""
    offsets: Sequence[int] = ()
    """Of the tokens in `text`."""

    @classmethod
    def of_tokens(
        cls, text: str, tokens: Sequence[int], decode: Callable[[Sequence[int]], str]
    ) -> Echo:
        """With the place of each token, by decoding."""
        detokenizer, num_chars, offsets = Detokenizer(decode), 0, []
        for token in tokens:
            offsets.append(num_chars)
            num_chars += len(detokenizer.push(token))
        return cls(text, tokens, offsets)


_NOTHING = Echo("")


class Pieces:
    """The pieces of a request's answers as they are made, `(index, piece)`.

    Args:
        answers: of the engine.
        echoes: what stands before the answers to each prompt; by default nothing.
        num_choices: answers to each prompt.
    """

    def __init__(
        self,
        answers: AnswerStream,
        echoes: Sequence[Echo] | None = None,
        *,
        num_choices: int = 1,
    ) -> None:
        self._answers = answers
        self._echoes = echoes
        self._num_choices = num_choices
        self._begun: set[int] = set()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        async for index, chunk in self._answers:
            echo = self._echoes[index // self._num_choices] if self._echoes else _NOTHING
            piece = _piece(chunk, len(echo.text))
            if index not in self._begun:
                self._begun.add(index)
                piece = Piece(echo.text, _echoed(echo, chunk)) + piece
            yield index, piece

    def end(self, index: int) -> None:
        """Ends one of the answers, see `AnswerStream.end`."""
        self._answers.end(index)


def _piece(chunk: Chunk, num_before: int) -> Piece:
    entries = tuple(Entry(*placed.scored, placed.offset + num_before) for placed in chunk.tokens)
    return Piece(chunk.text, entries, chunk.finish_reason)


def _echoed(echo: Echo, chunk: Chunk) -> tuple[Entry, ...]:
    if not echo.tokens:
        return ()
    first = Entry(echo.tokens[0], None, (), 0)
    places = zip(chunk.prompt, echo.offsets[1:], strict=True)
    return (first, *(Entry(*scored, offset) for scored, offset in places))


class TokenTexts:
    """What tokens are called in an answer.

    Args:
        tokenizer: read at the first question.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._bytes: dict[int, bytes] | None = None

    def bytes(self, token: int) -> bytes:
        """The bytes of a token; none of a row of the model's that is no token."""
        if self._bytes is None:
            self._bytes = read_token_bytes(self._tokenizer)
        return self._bytes.get(token, b"")

    def text(self, token: int) -> str:
        r"""Its text; of one that holds a part of a character `bytes:\xf0\x9f`, as OpenAI does, so
        that no two are called alike."""
        data = self.bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
