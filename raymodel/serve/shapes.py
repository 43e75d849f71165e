"""How generated text is wrapped: as a completion, or as a chat message; whole, or in events."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from raymodel.serve.pieces import Entry, Piece, TokenTexts
from raymodel.serve.protocol import Usage
from raymodel.serve.refusal import Refusal

_LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI writes this for what cannot be


class AnswerShape(ABC):
    """The JSON around one HTTP request's answers.

    Args:
        model: its name.
        texts: what its tokens are called, where log-probabilities are told; else None.
        with_usage: whether a stream ends with the usage.
    """

    def __init__(
        self, model: str, texts: TokenTexts | None = None, *, with_usage: bool = False
    ) -> None:
        self._model = model
        self._texts = texts
        self._with_usage = with_usage
        self._created = int(time.time())

    @abstractmethod
    def whole(self, answers: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The answer that is not streamed."""

    def begin(self) -> Iterator[bytes]:
        """The events before the first piece."""
        yield from ()

    @abstractmethod
    def go_on(self, index: int, piece: Piece) -> Iterator[bytes]:
        """The events of a piece."""

    @abstractmethod
    def end(self, usage: Usage) -> Iterator[bytes]:
        """The events after the last piece."""

    @abstractmethod
    def fail(self, refusal: Refusal) -> Iterator[bytes]:
        """The events of an answer that ends in an error."""


class ChoicesShape(AnswerShape):
    """What completions and chats share: a list of choices."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: set[int] = set()
        self._head = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "created": self._created,
            "model": self._model,
        }

    @abstractmethod
    def _choice(self, text: str) -> dict[str, Any]:
        """The text of a whole answer."""

    @abstractmethod
    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        """A piece of text in a stream."""

    @abstractmethod
    def _logprobs(self, entries: Sequence[Entry], texts: TokenTexts) -> dict[str, Any]:
        """Log-probabilities of a text's tokens."""

    def whole(self, answers: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        choices = [
            {"index": index, **self._choice(piece.text), **self._closing(piece)}
            for index, piece in enumerate(answers)
        ]
        return self._wrap(self.whole_object, choices) | {"usage": usage.model_dump()}

    def go_on(self, index: int, piece: Piece) -> Iterator[bytes]:
        delta = self._delta(piece.text, is_first=index not in self._begun)
        self._begun.add(index)
        choice = {"index": index, **delta, **self._closing(piece)}
        yield event(self._wrap(self.chunk_object, [choice]))

    def end(self, usage: Usage) -> Iterator[bytes]:
        if self._with_usage:
            yield event(self._wrap(self.chunk_object, []) | {"usage": usage.model_dump()})
        yield event("[DONE]")

    def fail(self, refusal: Refusal) -> Iterator[bytes]:
        yield event(refusal.body())
        yield event("[DONE]")

    def _closing(self, piece: Piece) -> dict[str, Any]:
        logprobs = None if self._texts is None else self._logprobs(piece.entries, self._texts)
        return {"logprobs": logprobs, "finish_reason": piece.finish_reason}

    def _wrap(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": name, "choices": choices}


class CompletionShape(ChoicesShape):
    """`/v1/completions`."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def _choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        return {"text": text}

    def _logprobs(self, entries: Sequence[Entry], texts: TokenTexts) -> dict[str, Any]:
        return {
            "tokens": [texts.text(entry.token) for entry in entries],
            "token_logprobs": [_number(entry.logprob) for entry in entries],
            "top_logprobs": [_by_text(entry, texts) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
        }


class ChatShape(ChoicesShape):
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def _choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if is_first else {}
        return {"delta": {**role, "content": text}}

    def _logprobs(self, entries: Sequence[Entry], texts: TokenTexts) -> dict[str, Any]:
        return {"content": token_logprobs(entries, texts), "refusal": None}


def token_logprobs(entries: Sequence[Entry], texts: TokenTexts) -> list[dict[str, Any]]:
    """A list with an object for each token, as chats and responses have it."""

    def told(token: int, logprob: float | None) -> dict[str, Any]:
        data = list(texts.bytes(token))
        return {"token": texts.text(token), "logprob": _number(logprob), "bytes": data}

    return [
        told(entry.token, entry.logprob) | {"top_logprobs": [told(*other) for other in entry.top]}
        for entry in entries
    ]


def _by_text(entry: Entry, texts: TokenTexts) -> dict[str, float | None] | None:
    """The likeliest tokens by their texts, and the token itself behind them if it is not there."""
    if entry.logprob is None:
        return None
    told: dict[str, float | None] = {}
    for token, logprob in (*entry.top, (entry.token, entry.logprob)):
        # Of two tokens of one text, which a vocabulary may have, the likelier one is told.
        told.setdefault(texts.text(token), _number(logprob))
    return told


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LEAST_LOGPROB)


def event(data: dict[str, Any] | str, name: str | None = None) -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    head = "" if name is None else f"event: {name}\n"
    # Model output may hold a lone surrogate only through a broken tokenizer; the stream survives.
    return f"{head}data: {text}\n\n".encode(errors="replace")
