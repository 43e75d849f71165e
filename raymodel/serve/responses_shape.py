"""An answer as `/v1/responses` wraps it: a response with one message; whole, or in named events.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from raymodel.serve.pieces import Piece, TokenTexts
from raymodel.serve.protocol import Usage
from raymodel.serve.refusal import Refusal
from raymodel.serve.responses_protocol import ResponsesRequest
from raymodel.serve.shapes import AnswerShape, event, token_logprobs

_PLACE = {"output_index": 0, "content_index": 0}


class ResponseShape(AnswerShape):
    """The one answer of a request.

    Args:
        body: what was asked, parts of which come back.
    """

    def __init__(self, model: str, body: ResponsesRequest, texts: TokenTexts | None) -> None:
        super().__init__(model, texts)
        self._body = body
        self._id = f"resp_{uuid.uuid4().hex}"
        self._item = f"msg_{uuid.uuid4().hex}"
        self._piece = Piece("")
        self._num_events = 0

    def whole(self, answers: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        [self._piece] = answers
        return self._response(_status(self._piece), [self._message(self._piece)], usage)

    def begin(self) -> Iterator[bytes]:
        response = self._response("in_progress", [], None)
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)
        message = {**self._message(Piece("")), "status": "in_progress", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=message)
        part = self._part(Piece(""))
        yield self._event("response.content_part.added", item_id=self._item, part=part, **_PLACE)

    def go_on(self, index: int, piece: Piece) -> Iterator[bytes]:
        self._piece += piece
        if piece.text or piece.entries:
            yield self._event(
                "response.output_text.delta",
                item_id=self._item,
                delta=piece.text,
                logprobs=self._logprobs(piece),
                **_PLACE,
            )

    def end(self, usage: Usage) -> Iterator[bytes]:
        whole, message = self._piece, self._message(self._piece)
        yield self._event(
            "response.output_text.done",
            item_id=self._item,
            text=whole.text,
            logprobs=self._logprobs(whole),
            **_PLACE,
        )
        part = self._part(whole)
        yield self._event("response.content_part.done", item_id=self._item, part=part, **_PLACE)
        yield self._event("response.output_item.done", output_index=0, item=message)
        status = _status(whole)
        response = self._response(status, [message], usage)
        yield self._event(f"response.{status}", response=response)

    def fail(self, refusal: Refusal) -> Iterator[bytes]:
        message = {**self._message(self._piece), "status": "incomplete"}
        response = self._response("failed", [message], None)
        response["error"] = {"code": "server_error", "message": refusal.message}
        yield self._event("response.failed", response=response)

    def _event(self, name: str, **fields: Any) -> bytes:
        number = self._num_events
        self._num_events += 1
        return event({"type": name, "sequence_number": number, **fields}, name)

    def _message(self, piece: Piece) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": _status(piece),
            "content": [self._part(piece)],
        }

    def _part(self, piece: Piece) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": piece.text,
            "annotations": [],
            "logprobs": self._logprobs(piece),
        }

    def _logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        return [] if self._texts is None else token_logprobs(piece.entries, self._texts)

    def _response(
        self, status: str, output: list[dict[str, Any]], usage: Usage | None
    ) -> dict[str, Any]:
        body = self._body
        is_filtered = self._piece.finish_reason == "content_filter"
        reason = "content_filter" if is_filtered else "max_output_tokens"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "model": self._model,
            "output": output,
            "usage": None if usage is None else _counted(usage),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "top_logprobs": body.top_logprobs or 0,
            "text": {"format": _format(body)},
            "truncation": "disabled",
            "tools": [],
            "tool_choice": body.tool_choice or "auto",
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": None,
            "background": False,
            "store": False,
        }


def _status(piece: Piece) -> str:
    return "incomplete" if piece.finish_reason in ("length", "content_filter") else "completed"


def _format(body: ResponsesRequest) -> dict[str, Any]:
    given = body.text and body.text.format
    return {"type": "text"} if not given else given.model_dump(exclude_none=True, by_alias=True)


def _counted(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
