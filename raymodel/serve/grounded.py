"""Chats that answer from documents: an ASGI application before that of a model.

A question of `/v1/chat/completions` is looked up, and what is found goes into the user's last turn,
above the question, so that every chat template takes it. The conversation that the client sends is
the memory: a question is looked up with the one before it as well, since "and how much is it?" is
about what was said before; and where all does not fit into the model's context, the oldest turns go
first. The answer ends with the names of the documents, which `sources` beside it tells too.

Knows neither Ray nor the model: it sends requests on, as a client would.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymodel.serve.bodies import parse_json, read_body, replay
from raymodel.serve.described import with_documents
from raymodel.serve.flow import unnoticed
from raymodel.serve.gate import Health, respond_json
from raymodel.serve.library import Found
from raymodel.serve.refusal import Refusal
from raymodel.serve.shapes import event

CHAT, TOKENIZE, DESCRIBED = "/v1/chat/completions", "/tokenize", "/openapi.json"
EMBEDDER_PATHS = ("/v1/embeddings", "/embed")
"""Answered by the embedder."""
_ROOM_FRAC = 0.25  # of the context for the answer, where the request does not say how long it is
_KEPT_TURNS = 3  # the question, and the last exchange before it; older ones go before excerpts do
_SAID_SOURCES = re.compile(r"\n\nSources: [^\n]*\Z")
_ASK = (
    "Answer the question from these excerpts of the documents. If they do not say it, say that the "
    "documents do not."
)

Turns = list[dict[str, Any]]
Find = Callable[[Sequence[str]], Awaitable[Sequence[Found]]]
"""Questions to the pieces that are about them, the closest first."""


class Grounded:
    """An application whose chats know documents.

    Args:
        inner: of the chat model.
        embedder: of the model that finds.
        find: looks up.
        max_tokens: longest answer of one request.
        healths: how the model is, and how the documents are.
    """

    def __init__(
        self,
        inner: ASGIApp,
        embedder: ASGIApp,
        find: Find,
        max_tokens: int,
        healths: tuple[Health, Health],
    ) -> None:
        self._inner, self._embedder, self._find = inner, embedder, find
        self._max_tokens, self._healths = max_tokens, healths

    async def health(self) -> Mapping[str, Any]:
        """What the model tells, and what is known of the documents; starting while either does."""
        model, documents = await asyncio.gather(*(ask() for ask in self._healths))
        if documents.get("status", "ok") != "ok":
            return dict(model) | {"status": documents["status"]}
        return dict(model) | {"documents": documents}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in EMBEDDER_PATHS:
            await self._embedder(scope, receive, send)
        elif scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", CHAT):
            await self._chat(scope, receive, send)
        elif scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", DESCRIBED):
            await self._describe(scope, send)
        else:
            await self._inner(scope, receive, send)

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, 2**62)  # the gate has bounded it
        asked = parse_json(body)
        turns = _readable(asked)
        if turns is None:  # the model's application says what is wrong with it
            await self._inner(scope, replay(body, receive), send)
            return
        found = await self._find(_questions(turns))
        messages, used = await self._fit(scope, asked, turns, list(found))
        answer = json.dumps(asked | {"messages": messages}).encode()
        sources = _Sources(used, send, is_text=_is_free(asked))
        await self._inner(_with_length(scope, len(answer)), replay(answer, receive), sources)

    async def _fit(
        self, scope: Scope, asked: Mapping[str, Any], turns: Turns, found: list[Found]
    ) -> tuple[Turns, list[Found]]:
        """The turns as the model is given them, and the excerpts in them: as much as fits."""
        system = [turn for turn in turns if turn["role"] in ("system", "developer")]
        said = [turn for turn in turns if turn not in system]
        old = max(0, len(said) - _KEPT_TURNS)
        most = old + len(found) + len(said) - old - 1

        def without(steps: int) -> tuple[Turns, list[Found]]:
            """Less by so many: old turns, then excerpts from the least close on, then turns."""
            pieces = min(max(0, steps - old), len(found))
            dropped = min(steps, old) + max(0, steps - old - len(found))
            used = found[: len(found) - pieces]
            kept = said[dropped:]
            while kept[0]["role"] == "assistant":  # templates begin with the user's turn
                kept = kept[1:]
            return [*system, *kept[:-1], _with_excerpts(kept[-1], used)], used

        limit = asked.get("max_completion_tokens") or asked.get("max_tokens")
        low, high = 0, most
        if await self._fits(scope, asked, without(0)[0], limit):
            return without(0)
        while low < high:  # the least that must go
            middle = (low + high) // 2
            if await self._fits(scope, asked, without(middle)[0], limit):
                high = middle
            else:
                low = middle + 1
        return without(high)

    async def _fits(
        self, scope: Scope, asked: Mapping[str, Any], messages: Turns, limit: Any
    ) -> bool:
        """Whether an answer has room behind these turns."""
        told = await self._ask(scope, {"model": asked.get("model"), "messages": messages})
        if told is None:  # too long to be looked at, or wrong, which the answer will say
            return False
        context = int(told["max_model_len"])
        room = limit if isinstance(limit, int) else min(self._max_tokens, context * _ROOM_FRAC)
        return bool(told["count"] + room <= context)

    async def _ask(self, scope: Scope, body: dict[str, Any]) -> dict[str, Any] | None:
        """What `/tokenize` says; None when it refuses."""
        data = json.dumps(body).encode()
        asked = _with_length(scope, len(data))
        asked.update(path=TOKENIZE, raw_path=TOKENIZE.encode())
        try:
            status, told = await _ask_whole(self._inner, asked, data)
        except Refusal as refusal:
            if refusal.status >= 500:
                raise
            return None
        return dict(told) if status == 200 else None

    async def _describe(self, scope: Scope, send: Send) -> None:
        """`/openapi.json`, with the routes of the embedder."""
        both = (self._inner, self._embedder)
        asked = _with_length(scope, 0)
        own, others = await asyncio.gather(*(_ask_whole(app, asked, b"") for app in both))
        for status, told in (own, others):
            if status != 200:
                await respond_json(send, told, status)
                return
        told = with_documents(own[1], others[1], EMBEDDER_PATHS)
        await respond_json(send, told, 200)


async def _ask_whole(app: ASGIApp, scope: Scope, body: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of an application's response. Raises Refusal as it does."""
    status, parts = 0, list[bytes]()

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await unnoticed(lambda: app(scope, _then_nothing(body), send))
    return status, json.loads(b"".join(parts))


def _then_nothing(body: bytes) -> Receive:
    async def never() -> Message:
        await asyncio.Event().wait()  # who asks within the server does not leave
        raise AssertionError

    return replay(body, never)


def _readable(asked: Any) -> Turns | None:
    """The turns, without the sources that earlier answers name; None where they are no question."""
    turns = asked.get("messages") if isinstance(asked, dict) else None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    if not turns or turns[-1].get("role") != "user" or not _text(turns[-1]).strip():
        return None
    return [
        turn | {"content": _SAID_SOURCES.sub("", turn["content"])}
        if turn.get("role") == "assistant" and isinstance(turn.get("content"), str)
        else turn
        for turn in turns
        if turn.get("role") is not None
    ]


def _text(turn: Mapping[str, Any]) -> str:
    """What a turn says; its parts may be texts."""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _is_free(asked: Mapping[str, Any]) -> bool:
    """Whether the answer is any text, and not one of a form that a line more would break."""
    form = asked.get("response_format")
    is_text = not form or (isinstance(form, dict) and form.get("type") == "text")
    return is_text and not asked.get("structured_outputs")


def _questions(turns: Turns) -> list[str]:
    """What is looked up: the question, and it behind the one before it."""
    asked = [text for turn in turns if turn["role"] == "user" and (text := _text(turn).strip())]
    return [asked[-1], *(["\n".join(asked[-2:])] if len(asked) > 1 else [])]


def _with_excerpts(turn: dict[str, Any], used: Sequence[Found]) -> dict[str, Any]:
    if not used:
        return turn
    excerpts = "\n\n".join(f"[{each.source}]\n{each.text}" for each in used)
    return turn | {"content": f"{_ASK}\n\n{excerpts}\n\nQuestion: {_text(turn)}"}


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return dict(scope) | {"headers": [*headers, (b"content-length", str(length).encode())]}


class _Sources:
    """Has an answer on its way out name its sources, one that comes whole or as a stream.

    Args:
        used: the excerpts that the model was given.
        is_text: the answer is a text that may end with them; JSON may not.
    """

    def __init__(self, used: Sequence[Found], send: Send, *, is_text: bool) -> None:
        self._send, self._is_stream, self._is_whole = send, False, False
        names = list(dict.fromkeys(each.source for each in used))
        self._text = f"\n\nSources: {', '.join(names)}" if names and is_text else ""
        self._told = [
            {"source": each.source, "score": round(each.score, 4), "text": each.text}
            for each in used
        ]
        self._start: Message | None = None
        self._held = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._is_stream = kind.startswith(b"text/event-stream")
            self._is_whole = message["status"] == 200 and kind.startswith(b"application/json")
            if self._is_whole:
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._is_whole:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()
            return
        elif message["type"] == "http.response.body" and self._is_stream:
            *events, self._held = (self._held + message.get("body", b"")).split(b"\n\n")
            body = b"".join(map(self._event, events))
            message = dict(message) | {"body": body}
        await self._send(message)

    async def _send_whole(self) -> None:
        assert self._start is not None, "a response begins"
        told = json.loads(self._held)
        for choice in told.get("choices", ()):
            if isinstance(choice["message"].get("content"), str):
                choice["message"]["content"] += self._text
        body = json.dumps(told | {"sources": self._told}).encode()
        headers = MutableHeaders(raw=list(self._start["headers"]))
        headers["content-length"] = str(len(body))
        await self._send(dict(self._start) | {"headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _event(self, raw: bytes) -> bytes:
        """An event of the stream; the one that ends a choice has the sources before it."""
        line = raw.removeprefix(b"data: ")
        if line == b"[DONE]" or not raw.startswith(b"data: "):
            return raw + b"\n\n"
        chunk = json.loads(line)
        ended = [c for c in chunk.get("choices", ()) if c.get("finish_reason")]
        if not ended:
            return raw + b"\n\n"
        said = b""
        for choice in ended:
            # The last piece of the text may come with the end of it.
            delta = dict(choice["delta"])
            delta["content"] = (delta.get("content") or "") + self._text
            spoken = dict(choice) | {"delta": delta, "finish_reason": None}
            said += event(dict(chunk) | {"choices": [spoken]})
            choice["delta"] = {}
            choice["logprobs"] = None
        return said + event(chunk | {"sources": self._told})
