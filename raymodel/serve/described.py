"""What `/openapi.json` says: FastAPI's description of the routes, held to what they answer with.

FastAPI knows what a route takes. Which refusals it can meet on its way, and that the gate before
the application answers some paths itself, it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI

from raymodel import __version__
from raymodel.serve.answer_protocol import Source
from raymodel.serve.protocol import AnswerModel, ErrorResponse, Status
from raymodel.tasks.fields import FILE_KINDS, Field

_REFUSED = {
    400: "The request is wrong: what was seen, the rule, the fix.",
    401: "The bearer token is missing or wrong.",
    403: "The name of the host is not this server's.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    429: "The token has asked as often as it may; `Retry-After` says when to come again.",
    500: "The server failed.",
    503: "It is full, starts or ends; `Retry-After` says when to come again.",
    504: "The answer took too long.",
}
_WITHOUT_BODY = (400, 404)
"""What a path without a body and a name cannot answer."""
_AT_GATE = (403,)
"""What the open paths can be refused with."""
_BEARER = "bearer"
_FORM = "Body_"  # as FastAPI calls what a route takes as a form
_REF = "#/components/schemas/{model}"
_ERROR = {"$ref": _REF.format(model="ErrorResponse")}


def or_events(whole: type[AnswerModel]) -> dict[int | str, dict[str, Any]]:
    """Of a route that streams when it is asked to, and else answers so."""
    told = "The answer; with `stream: true` its events as they come, after which `[DONE]` stands."
    # Without a schema: some read one as that of each event, others as that of the whole.
    return {200: {"model": whole, "description": told, "content": {"text/event-stream": {}}}}


def or_plain(whole: type[AnswerModel]) -> dict[int | str, dict[str, Any]]:
    """Of a route that answers with a text alone when it is asked to, and else so."""
    told = "The answer, as JSON or as plain text."
    return {200: {"model": whole, "description": told, "content": {"text/plain": _text()}}}


def describe(app: FastAPI, model: str, said: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The document of an application that stands behind a gate.

    Args:
        model: the one name that requests may give.
        said: name of a request or an answer → its fields of which this model takes or tells less
            than others do, each as JSON Schema.
    """
    document = FastAPI.openapi(app)
    document["info"]["version"] = __version__
    for path, operations in document["paths"].items():
        for operation in operations.values():
            kept = {s: r for s, r in operation["responses"].items() if s.startswith("2")}
            operation["responses"] = kept | _refusals(_statuses(path, operation))
            operation["security"] = [{_BEARER: []}, {}]
    document["paths"] |= dict(_paths_of_gate())
    scheme = {"type": "http", "scheme": "bearer", "description": "Where the server wants a token."}
    components = document["components"]
    components["securitySchemes"] = {_BEARER: scheme}
    for kind in (ErrorResponse, Status):
        parts = kind.model_json_schema(ref_template=_REF, mode="serialization")
        components["schemas"] |= parts.pop("$defs", {}) | {kind.__name__: parts}
    for name, schema in components["schemas"].items():
        is_asked = name.endswith("Request") or name.startswith(_FORM)
        if is_asked and "model" in schema["properties"]:
            schema["properties"]["model"]["enum"] = [model]
        for field, narrower in said.get(name, {}).items():
            schema["properties"][field] |= narrower
    return document


def with_documents(
    document: dict[str, Any], of_embedder: Mapping[str, Any], paths: Iterable[str]
) -> dict[str, Any]:
    """The document of a chat model that answers from documents.

    Args:
        document: of the chat model.
        of_embedder: that of the model that finds.
        paths: which it answers.
    """
    schemas = document["components"]["schemas"]
    for name, schema in of_embedder["components"]["schemas"].items():
        schemas.setdefault(name, schema)
    schemas["Source"] = Source.model_json_schema(ref_template=_REF, mode="serialization")
    sources = {"type": "array", "items": {"$ref": _REF.format(model="Source")}}
    # Missing where the last turn was no question.
    schemas["ChatCompletion"]["properties"]["sources"] = sources
    document["paths"] |= {path: of_embedder["paths"][path] for path in paths}
    return document


def schema_of(field: Field) -> dict[str, Any]:
    """What stands for a role in JSON, as JSON Schema."""
    if field.kind in ("texts", "words"):
        return {"type": "array", "items": {"type": "string"}}
    if field.kind in FILE_KINDS:
        return {"type": "string", "contentEncoding": "base64", "description": field.kind}
    return {"type": "string"}


def _statuses(path: str, operation: Mapping[str, Any]) -> Iterator[int]:
    is_simple = "requestBody" not in operation and "{" not in path
    return (status for status in _REFUSED if not (is_simple and status in _WITHOUT_BODY))


def _refusals(statuses: Iterator[int]) -> dict[str, Any]:
    return {
        str(status): {
            "description": _REFUSED[status],
            "content": {"application/json": {"schema": _ERROR}},
        }
        for status in statuses
    }


def _paths_of_gate() -> Iterator[tuple[str, Any]]:
    """What is answered before the application."""
    refused = _refusals(iter(_AT_GATE))
    for path, what in (
        ("/health", "How the model is; to who has no token only its status."),
        ("/readyz", "Whether requests are answered."),
        ("/livez", "Whether the server is there."),
    ):
        told = {
            "description": what,
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Status")}}},
        }
        down = {} if path == "/livez" else {"503": told | {"description": "They are not."}}
        yield path, {"get": {"summary": what, "responses": {"200": told, **down, **refused}}}
    page = {"description": "A page to try the model.", "content": {"text/html": _text()}}
    yield "/", {"get": {"summary": "The page", "responses": {"200": page, **refused}}}
    told = {"description": "In Prometheus' form.", "content": {"text/plain": _text()}}
    operation = {
        "summary": "Measures",
        "responses": {"200": told, **_refusals(iter((401, *_AT_GATE)))},
        "security": [{_BEARER: []}, {}],
    }
    yield "/metrics", {"get": operation}


def _text() -> dict[str, Any]:
    return {"schema": {"type": "string"}}
