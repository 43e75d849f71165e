"""The HTTP application around a service: its routes, names and errors. Knows no Ray."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raymodel.serve.capacity import longest_wait_s
from raymodel.serve.described import describe
from raymodel.serve.flow import Flow
from raymodel.serve.gate import SPARE_REQUESTS, Gate, Rules
from raymodel.serve.problems import refuse_request
from raymodel.serve.protocol import ModelCard, ModelList
from raymodel.serve.refusal import Refusal, wrong_method
from raymodel.serve.refusal import failed as failure
from raymodel.serve.service import Service

_CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is there to read it


def build_app(service: Service, rules: Rules | None = None) -> Gate:
    """The application of one model behind its gate, for a server of one process."""

    async def health() -> dict[str, Any]:
        return service.health()

    spec = service.spec
    # A little more than the service takes: it knows best which of them it refuses.
    flow = Flow(
        service.num_rows,
        service.num_rows + spec.queue + SPARE_REQUESTS,
        longest_wait_s=partial(longest_wait_s, spec, service.task.name),
    )
    return Gate(build_inner(service), health, flow, rules, service.name)


def build_inner(service: Service) -> FastAPI:
    """The application that answers what was let through; closes the service at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # No /docs: it loads its scripts from another server.
    app = FastAPI(title=service.name, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(service.router())
    app.include_router(_models_router(service))
    app.openapi = partial(describe, app, service.name, service.described())  # type: ignore[method-assign]
    add_error_handlers(app)
    return app


def _models_router(service: Service) -> APIRouter:
    router = APIRouter()
    created = int(time.time())

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        return ModelList(data=[ModelCard(id=service.name, created=created)])

    @router.get("/v1/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        service.check_model(name)
        return ModelCard(id=service.name, created=created)

    return router


def add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in one shape."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status, refusal.headers())

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await refused(request, refuse_request(error.errors(), error.body))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        path, allow = request.url.path, (error.headers or {}).get("Allow")
        if allow is not None:
            return await refused(request, wrong_method(request.method, path, allow))
        message = f"{request.method} {ascii(path)[1:-1]}: {error.detail}"
        return await refused(request, Refusal(error.status_code, message))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return await refused(request, failure(error))
