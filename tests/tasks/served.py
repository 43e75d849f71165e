"""Requests to a service, as the server passes them on."""

import asyncio
from typing import Any

import httpx

from raymodel.serve.app import build_app


def call(service: Any, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """The answer of one request, over the application itself."""

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(run())
