"""The body of a request: read no further than its limit, and parsed as strict JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from raymodel.serve.refusal import Refusal

MAX_DEPTH = 64
"""Lists and objects in each other: ours need five, and Python's own limit is an accident."""
_EXACT = 2**53  # up to it a float tells all integers apart
_READ_S = 60.0  # for a whole body: a client that sends a byte a minute holds a place as well
_PARSED_AT_ONCE_BYTES = 65_536  # longer ones take milliseconds, in which the event loop stood still


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        Refusal: 413 as soon as it is known to be longer than the limit: by what the client says
            before anything is read, else while it comes; 408 when it does not come.
        ClientDisconnect: the client left.
    """
    told = dict(scope["headers"]).get(b"content-length", b"")
    if told.isdigit() and (len(told) > 18 or int(told) > limit_bytes):
        raise _too_large(limit_bytes, told.decode()[:18])
    parts: list[bytes] = []
    num_bytes, is_whole = 0, False
    try:
        async with asyncio.timeout(_READ_S):
            while not is_whole:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                num_bytes += len(parts[-1])
                if num_bytes > limit_bytes:
                    raise _too_large(limit_bytes)
                is_whole = not message.get("more_body", False)
    except TimeoutError:
        raise Refusal(
            408, f"the body did not come within {_READ_S:g} s; send it at once", code="timeout"
        ) from None
    return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """What an application receives of a request whose body was read already."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


class JsonRoute(APIRoute):
    """A route whose body is strict JSON: UTF-8, finite numbers, no deeper than `MAX_DEPTH`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given what was parsed here."""
        handle = super().get_route_handler()

        async def parse_and_handle(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind == "application/json" or kind.endswith("+json"):
                body = await request.body()
                is_short = len(body) <= _PARSED_AT_ONCE_BYTES
                data = parse_json(body) if is_short else await asyncio.to_thread(parse_json, body)
                request = _Parsed(request.scope, replay(body, request.receive))
                request.data = data
            return await handle(request)

        return parse_and_handle


class _Parsed(Request):
    data: Any

    async def json(self) -> Any:
        return self.data


def parse_json(body: bytes) -> Any:
    """The value of a body.

    Raises:
        Refusal: 400; it is not UTF-8 or no JSON, holds a number that is none, or is too deep.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Refusal(
            400, f"the body is not UTF-8 at byte {error.start}; send JSON in UTF-8"
        ) from None
    try:
        data = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Refusal(
            400,
            f"the body is not valid JSON ({error.msg} at character {error.pos}); send one JSON "
            "object",
        ) from None
    except (RecursionError, ValueError):
        # Of integers Python refuses those of more than 4,300 digits.
        raise _too_deep("a number of thousands of digits, or too many levels") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and depth_of(data) > MAX_DEPTH:
        raise _too_deep("too many levels")
    return data


def depth_of(data: Any) -> int:
    """Lists and objects in each other, no further than one too many."""
    depth, level = 0, [data]
    while depth <= MAX_DEPTH:
        level = [item for item in level if isinstance(item, list | dict)]
        if not level:
            break
        depth += 1
        level = [x for item in level for x in (item.values() if isinstance(item, dict) else item)]
    return depth


def _finite(text: str) -> float:
    """A number; `2.0` is the integer 2, as JSON Schema has it, and as clients in languages without
    integers write it."""
    number = float(text)
    if not math.isfinite(number):
        _no_number(text)
    return int(number) if number.is_integer() and abs(number) <= _EXACT else number


def _no_number(text: str) -> NoReturn:
    raise Refusal(400, f"the body holds {text[:20]}, which is no number of JSON; send a finite one")


def _too_deep(why: str) -> Refusal:
    return Refusal(
        400, f"the body holds {why}; lists and objects go at most {MAX_DEPTH} deep into each other"
    )


def _too_large(limit_bytes: int, told: str = "") -> Refusal:
    seen = f"has {int(told):,} bytes" if told else "is longer"
    return Refusal(
        413,
        f"the body {seen}; this server takes at most {limit_bytes:,} (serve.max_body). Send less, "
        "or in several requests",
        code="request_too_large",
    )
