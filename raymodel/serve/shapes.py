"""How generated text is wrapped: as a completion, or as a chat message; whole, or in events."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from raymodel.serve.protocol import Usage


class AnswerShape(ABC):
    """The JSON around one HTTP request's answers."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    @abstractmethod
    def _choice(self, text: str) -> dict[str, Any]:
        """The text of a whole answer."""

    @abstractmethod
    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        """A piece of text in a stream."""

    def whole(self, answers: list[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """The answer that is not streamed; `answers` are (text, finish reason)."""
        choices = [
            {"index": index, **self._choice(text), "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(answers)
        ]
        return self._wrap(self.whole_object, choices) | {"usage": usage.model_dump()}

    def chunk(
        self, index: int, text: str, finish_reason: str | None, *, is_first: bool
    ) -> dict[str, Any]:
        """One event's JSON."""
        delta = self._delta(text, is_first=is_first)
        choice = {"index": index, **delta, "logprobs": None, "finish_reason": finish_reason}
        return self._wrap(self.chunk_object, [choice])

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last event when the client asked for usage."""
        return self._wrap(self.chunk_object, []) | {"usage": usage.model_dump()}

    def _wrap(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": name, "choices": choices}


class CompletionShape(AnswerShape):
    """`/v1/completions`."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def _choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        return {"text": text}


class ChatShape(AnswerShape):
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def _choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta(self, text: str, *, is_first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if is_first else {}
        return {"delta": {**role, "content": text}}


def event(data: dict[str, Any] | str) -> bytes:
    """A server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    # Model output may hold a lone surrogate only through a broken tokenizer; the stream survives.
    return f"data: {text}\n\n".encode(errors="replace")
