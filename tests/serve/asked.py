"""Requests to a service over its application, and what is expected of refusals."""

import asyncio

import httpx

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
