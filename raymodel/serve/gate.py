"""The gate before an application: who may ask, and how much, before any work is done.

Knows neither the model nor Ray: what is behind it may be the application itself, or one that
passes requests on to it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymodel.serve.bodies import read_body, replay
from raymodel.serve.flow import Flow, Passage, tell_notices
from raymodel.serve.hosts import check_host
from raymodel.serve.keys import Key, Quota, find_key
from raymodel.serve.metrics import CONTENT_TYPE, Metrics
from raymodel.serve.refusal import STARTING_RETRY_S, Refusal, failed, wrong_method
from raymodel.serve.shapes import event

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 * 2**20
SPARE_REQUESTS = 16
"""Beyond those that a service takes: it knows best which of them it refuses."""
OPEN_PATHS = ("/", "/health", "/readyz", "/livez")
"""Answered without a token, and without the model."""
PAGE = Path(__file__).with_name("page.html")
# The page needs nothing from elsewhere, and may not fetch it.
_PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
_CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is there to read it

Health = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the gate asks of requests."""

    keys: tuple[Key, ...] = ()
    """One of which clients must send as `Authorization: Bearer …`; without any all may ask."""
    requests_per_min: int | None = None
    """Of each key; None sets no limit."""
    max_body_bytes: int = MAX_BODY_BYTES
    host: str | None = None
    """The address that the server listens on, to refuse foreign names where there is no token;
    None takes all."""


class Gate:
    """An ASGI application around another.

    Args:
        inner: answers what is let through, the body whole.
        health: what `/health` tells; its `status` is `ok`, or `asleep`, where requests can be
            answered.
        flow: of the requests through it.
        rules: what is asked of requests. The page and `/health` are open, the latter then tells
            strangers only how it is.
        name: of the model, for the metrics.
        page: what a browser is shown at `/`; None shows nothing there.
    """

    def __init__(
        self,
        inner: ASGIApp,
        health: Health,
        flow: Flow,
        rules: Rules | None = None,
        name: str = "model",
        page: Path | None = PAGE,
    ) -> None:
        self.inner, self._health, self._flow = inner, health, flow
        self._page = page
        self._rules = rules or Rules()
        self._quota = Quota(self._rules.requests_per_min)
        self._metrics = Metrics(name, lambda: flow.num_waiting, lambda: flow.num_running)
        self._draining: asyncio.Task[None] | None = None

    def drain(self, grace_s: float) -> bool:
        """Begins to let nobody in, so that the server can end. Whether nobody is left.

        Args:
            grace_s: how long answers under way may still take; then each is told that it ends.
        """
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._flow.drain(grace_s))
        return self._draining.done()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or has it answered."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        status = 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, send_counted)
        except Refusal as refusal:
            await respond_json(send_counted, refusal.body(), refusal.status, refusal.headers())
        except ClientDisconnect:
            await respond_json(send_counted, {}, _CLIENT_CLOSED_REQUEST)
        except Exception as error:
            if status:  # it is answered, as far as it can be; the connection is closed
                raise
            log.exception("a request failed")
            unforeseen = failed(error)
            await respond_json(send_counted, unforeseen.body(), unforeseen.status)
        finally:
            self._metrics.count(scope["path"], status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if not self._rules.keys and self._rules.host is not None:
            check_host(headers.getlist("host"), self._rules.host)
        key = find_key(self._rules.keys, headers.get("authorization", ""))
        if scope["path"] in OPEN_PATHS and (scope["path"] != "/" or self._page is not None):
            await self._tell(scope, send, is_stranger=key is None)
            return
        if key is None:
            raise Refusal(
                401,
                "the bearer token is missing or wrong; send `Authorization: Bearer TOKEN`",
                code="invalid_api_key",
            )
        if scope["path"] == "/metrics":
            if scope["method"] not in ("GET", "HEAD"):
                raise wrong_method(scope["method"], scope["path"], "GET, HEAD")
            await _respond(send, self._metrics.text(), CONTENT_TYPE, 200, {})
            return
        self._quota.take(key)
        await self._pass_on(scope, receive, send)

    async def _tell(self, scope: Scope, send: Send, *, is_stranger: bool) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise wrong_method(scope["method"], scope["path"], "GET, HEAD")
        if scope["path"] == "/":
            assert self._page is not None, "the caller looked"
            await _show_page(self._page, send)
            return
        if scope["path"] == "/livez":
            await respond_json(send, {"status": "ok"}, 200)
            return
        told = {"status": "draining"} if self._flow.is_draining else await self._health()
        is_brief = is_stranger or scope["path"] == "/readyz"
        # A model that sleeps answers, once it is awake.
        status = 200 if told["status"] in ("ok", "asleep") else 503
        await respond_json(
            send,
            {"status": told["status"]} if is_brief else told,
            status,
            {} if status == 200 else {"Retry-After": str(STARTING_RETRY_S)},
        )

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        passage = self._flow.enter()
        response = _Response(send, self._flow)
        try:
            body = await read_body(scope, receive, self._rules.max_body_bytes)
            passage.arrive()
            tell_notices(passage)
            await self._run(passage, scope, replay(body, receive), response)
        except Refusal as refusal:
            await response.end_with(refusal)
        finally:
            self._flow.leave(passage, is_answered=response.status == 200)
            for found, count in passage.filtered.items():
                self._metrics.count_filtered(found, count)
            if passage.version is not None:
                took_s = time.monotonic() - passage.entered_s
                self._metrics.count_version(passage.version, response.status, took_s)
            if passage.begun_s is not None and passage.tokens is not None:
                first_s = passage.begun_s - passage.entered_s
                rest_s = time.monotonic() - passage.begun_s
                self._metrics.measure(first_s, rest_s, *passage.tokens)

    async def _run(self, passage: Passage, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, in a task of its own that can be ended. Raises Refusal when it was."""
        passage.work = asyncio.ensure_future(self.inner(scope, receive, send))
        try:
            if passage.refusal is not None:  # it was ended while its body came
                raise passage.refusal
            await passage.work
        except asyncio.CancelledError:
            if passage.refusal is None or not passage.work.done():
                raise
            raise passage.refusal from None
        finally:
            passage.work.cancel()


class _Response:
    """What goes out of one request; remembers how far it is."""

    def __init__(self, send: Send, flow: Flow) -> None:
        self._send, self._flow = send, flow
        self.status = 0
        """Of its start; 0 before."""
        self._is_stream = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._is_stream = kind.startswith("text/event-stream")
            if self.status == 503:
                _retry_after(message, self._flow.retry_after_s())
        await self._send(message)

    async def end_with(self, refusal: Refusal) -> None:
        """The refusal, as an event where the response has begun; raises it where it cannot be said,
        which closes the connection."""
        if self.status and not self._is_stream:
            raise ConnectionAbortedError(refusal.message) from refusal
        if self.status:
            said = event(refusal.body()) + event("[DONE]")
            await self._send({"type": "http.response.body", "body": said, "more_body": False})
            return
        if refusal.status == 503 and refusal.retry_after_s is not None:
            refusal.retry_after_s = max(refusal.retry_after_s, self._flow.retry_after_s())
        await respond_json(self, refusal.body(), refusal.status, refusal.headers())


async def respond_json(
    send: Send, data: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> None:
    """A whole response."""
    await _respond(send, json.dumps(data).encode(), "application/json", status, headers or {})


async def _show_page(page: Path, send: Send) -> None:
    await _respond(
        send,
        page.read_bytes(),
        "text/html; charset=utf-8",
        200,
        {"Content-Security-Policy": _PAGE_POLICY},
    )


async def _respond(
    send: Send, body: bytes, kind: str, status: int, headers: Mapping[str, str]
) -> None:
    all_headers = {"content-type": kind, "content-length": str(len(body)), **headers}
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in all_headers.items()
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _retry_after(start: Message, least_s: int) -> None:
    """Says when to come again, as measured here, or later where the model itself says so."""
    headers = MutableHeaders(raw=start["headers"])
    told = headers.get("retry-after", "")
    headers["retry-after"] = str(max(least_s, int(told) if told.isdigit() else 0))
    start["headers"] = headers.raw
