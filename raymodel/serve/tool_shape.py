"""A chat answer that may call functions, as OpenAI's clients read it; whole, or in events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from raymodel.serve.call_reader import Argued, Called, CallReader, Part, Said
from raymodel.serve.pieces import Piece
from raymodel.serve.protocol import Usage
from raymodel.serve.shapes import ChatShape, event
from raymodel.serve.tools import Offer


class ToolChatShape(ChatShape):
    """`/v1/chat/completions` with tools.

    Args:
        offer: what may be called.
    """

    def __init__(self, *args: Any, offer: Offer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offer = offer
        self._readers: dict[int, CallReader] = {}
        self._untold: dict[int, Piece] = {}  # whose text is held back, with their tokens

    def whole(self, answers: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        choices = []
        for index, piece in enumerate(answers):
            reader = self._offer.reader()
            parts = [*reader.push(piece.text), *reader.finish()]
            message = _message(parts)
            choices.append({"index": index, "message": message, **self._ended(piece, reader)})
        return self._wrap(self.whole_object, choices) | {"usage": usage.model_dump()}

    def go_on(self, index: int, piece: Piece) -> Iterator[bytes]:
        if index not in self._readers:
            self._readers[index] = self._offer.reader()
        reader = self._readers[index]
        parts = reader.push(piece.text)
        if piece.finish_reason is not None:
            parts += reader.finish()
        piece = self._untold.pop(index, Piece("")) + piece
        if not parts and piece.finish_reason is None:
            self._untold[index] = piece
            return
        for number, part in enumerate(parts or [Said("")]):
            is_first, is_last = number == 0, number >= len(parts) - 1
            told = Piece(
                "",
                piece.entries if is_first else (),
                piece.finish_reason if is_last else None,
            )
            delta = {"role": "assistant", "content": None} if index not in self._begun else {}
            self._begun.add(index)
            choice = {"index": index, "delta": {**delta, **_delta(part)}}
            yield event(self._wrap(self.chunk_object, [choice | self._ended(told, reader)]))

    def _ended(self, piece: Piece, reader: CallReader) -> dict[str, Any]:
        """An answer that calls ends by calling, unless it was cut off."""
        is_called = piece.finish_reason == "stop" and reader.num_calls
        closing = self._closing(piece)
        return closing | {"finish_reason": "tool_calls"} if is_called else closing


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case Said(text):
            return {"content": text}
        case Called(number, identity, name):
            return {"tool_calls": [{"index": number, **_call(identity, name, "")}]}
        case Argued(number, text):
            return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}


def _message(parts: Sequence[Part]) -> dict[str, Any]:
    text, calls, arguments = "", [], dict[int, str]()
    for part in parts:
        match part:
            case Said(more):
                text += more
            case Called():
                calls.append(part)
            case Argued(number, more):
                arguments[number] = arguments.get(number, "") + more
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["content"] = text or None
        message["tool_calls"] = [
            _call(call.id, call.name, arguments.get(call.number, "")) for call in calls
        ]
    return message


def _call(identity: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}
