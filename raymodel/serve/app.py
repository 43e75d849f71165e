"""The HTTP application around a service: names, health, errors, token, page. Knows no Ray."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raymodel.serve.protocol import ErrorResponse
from raymodel.serve.refusal import Refusal
from raymodel.serve.service import Service

PAGE = Path(__file__).with_name("page.html")
_REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse} for status in (400, 401, 404, 422, 500, 503, 504)
}
_CLIENT_CLOSED_REQUEST = 499  # nginx's number; nobody is there to read it


def build_app(service: Service, *, token: str | None = None) -> FastAPI:
    """The application that serves one model.

    Args:
        service: answers the requests; closed with the application.
        token: what clients must send as `Authorization: Bearer …`; None asks for none. The page
            and `/health` are open, the latter then tells strangers only whether it is well.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # No /docs: it loads its scripts from another server.
    app = FastAPI(title=service.name, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    has_token = _token_check(token)

    def check_token(request: Request) -> None:
        if not has_token(request):
            raise Refusal(
                401,
                "the bearer token is missing or wrong; send `Authorization: Bearer TOKEN`",
                code="invalid_api_key",
            )

    guarded = {"dependencies": [Depends(check_token)], "responses": _REFUSED}
    app.include_router(service.router(), **guarded)  # type: ignore[arg-type]
    app.include_router(_models_router(service), **guarded)  # type: ignore[arg-type]
    app.include_router(_open_router(service, has_token))
    _add_error_handlers(app)
    return app


def _token_check(token: str | None) -> Callable[[Request], bool]:
    def has_token(request: Request) -> bool:
        if token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Constant time, so that the answer's delay tells nothing of the token.
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())

    return has_token


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


def _open_router(service: Service, has_token: Callable[[Request], bool]) -> APIRouter:
    router = APIRouter()

    @router.get("/health", responses={503: {}})
    async def health(request: Request) -> JSONResponse:
        told = service.health()
        status = 200 if service.is_healthy else 503
        if not has_token(request):
            told = {"status": told["status"]}
        return JSONResponse(told, status)

    @router.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        # The page needs nothing from elsewhere, and may not fetch it.
        policy = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
        policy += "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
        return HTMLResponse(
            PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": policy}
        )

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
    if found["type"] == "json_invalid":
        cause = (found.get("ctx") or {}).get("error", "")
        return Refusal(400, f"the body is not valid JSON ({cause}); send one JSON object")
    message = found["msg"].removeprefix("Value error, ")
    if not path:
        return Refusal(400, message)
    if found["type"] == "missing":
        return Refusal(400, f"{path} is missing; it is required", param=path)
    seen = ascii(found.get("input"))[:80]
    return Refusal(400, f"{path} is {seen}: {message}", param=path)
