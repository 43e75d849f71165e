"""The HTTP application around a service: its routes, names and errors. Knows no Ray."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raymodel.serve.gate import Gate, Rules
from raymodel.serve.protocol import ErrorResponse
from raymodel.serve.refusal import Refusal
from raymodel.serve.service import Service

_REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 408, 413, 422, 500, 503, 504)
}
_CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is there to read it


def build_app(service: Service, rules: Rules | None = None) -> Gate:
    """The application of one model behind its gate, for a server of one process."""

    async def health() -> dict[str, Any]:
        return service.health()

    return Gate(build_inner(service), health, rules)


def build_inner(service: Service) -> FastAPI:
    """The application that answers what was let through; closes the service at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # No /docs: it loads its scripts from another server.
    app = FastAPI(title=service.name, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(service.router(), responses=_REFUSED)
    app.include_router(_models_router(service), responses=_REFUSED)
    _add_error_handlers(app)
    return app


def _models_router(service: Service) -> APIRouter:
    router = APIRouter()
    created = int(time.time())

    def card() -> dict[str, Any]:
        return {"id": service.name, "object": "model", "created": created, "owned_by": "raymodel"}

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @router.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return card()

    return router


def _add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in one shape."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status, refusal.headers())

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await refused(request, _from_validation(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {ascii(request.url.path)[1:-1]}: {error.detail}"
        return await refused(request, Refusal(error.status_code, message))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        message = f"the server failed with {type(error).__name__}; its log has more"
        return await refused(request, Refusal(500, message))


def _from_validation(error: RequestValidationError) -> Refusal:
    """The deepest of pydantic's findings as one message: with unions the others are only noise."""
    found = max(error.errors(), key=lambda item: len(item["loc"]))
    path = ".".join(str(part) for part in found["loc"] if part != "body")
    message = found["msg"].removeprefix("Value error, ")
    if not path:
        return Refusal(400, message)
    if found["type"] == "missing":
        return Refusal(400, f"{path} is missing; it is required", param=path)
    seen = ascii(found.get("input"))[:80]
    return Refusal(400, f"{path} is {seen}: {message}", param=path)
