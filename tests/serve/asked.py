"""Requests to a service over its application, and what is expected of refusals."""

import asyncio
import json
import threading

import httpx
from engines import WAIT_S, steps_when

from raymodel.serve.app import build_app
from raymodel.serve.gate import Rules
from raymodel.serve.keys import Key, digest_of


def rules_of(token=None, **rules):
    keys = () if token is None else (Key("client", digest_of(token)),)
    return Rules(keys=keys, **rules)


def client_of(service, **rules):
    app = build_app(service, rules_of(**rules))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30)


def call(service, method, path, app=None, **kwargs):
    async def run():
        async with client_of(service, **(app or {})) as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(run())


def complete(service, **body):
    body = {"model": "tiny", "prompt": "def read", "max_tokens": 5, "temperature": 0} | body
    return call(service, "POST", "/v1/completions", json=body)


async def post_many(client, service, body, count):
    """The responses to so many requests at once, of which some find no room: the engine ends none
    before one is refused."""
    is_refused = threading.Event()
    with steps_when(service.engine, is_refused.is_set):
        calls = [client.post("/v1/completions", json=body) for _ in range(count)]
        posts = [asyncio.ensure_future(call) for call in calls]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        is_refused.set()
        return await asyncio.gather(*posts)


def events(response):
    parts = response.text.split("\n\n")
    assert parts[-1] == ""
    return [part.removeprefix("data: ") for part in parts[:-1]]


def check_error(response, status, *words, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for word in words:
        assert word in error["message"]
    assert error["param"] == param


def leave_early(app, body, service):
    """Asks for a text and leaves as soon as the engine is at it; returns when its slot is free."""
    left, is_over = asyncio.Event(), threading.Event()
    requests = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive():
        request = next(requests, None)
        if request is None:
            await left.wait()
            return {"type": "http.disconnect"}
        return request

    async def send(message):
        pass

    async def run():
        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }  # fmt: skip
        answering = asyncio.ensure_future(app(scope, receive, send))
        while not service.engine.num_active:
            await asyncio.sleep(0.005)
        left.set()
        await answering
        is_over.set()
        while service.engine.num_active:
            await asyncio.sleep(0.005)

    with steps_when(service.engine, is_over.is_set):
        asyncio.run(asyncio.wait_for(run(), WAIT_S))
