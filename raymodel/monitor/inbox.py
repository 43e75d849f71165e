"""Texts that others send: `POST /texts`, behind the gate that models are served behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI
from pydantic import Field, model_validator

from raymodel.errors import PortError
from raymodel.monitor.reading import UnreadError, time_of
from raymodel.monitor.spec import InboxSpec
from raymodel.monitor.state import State
from raymodel.serve.app import add_error_handlers
from raymodel.serve.bodies import JsonRoute
from raymodel.serve.flow import Flow
from raymodel.serve.gate import Gate, Rules
from raymodel.serve.keys import load_keys
from raymodel.serve.port import check_port
from raymodel.serve.protocol import Text, WireModel
from raymodel.serve.refusal import Refusal

_MOST_TEXTS = 1_000  # in one request
_MOST_REQUESTS = 64  # at the same time; each is a write to the disk
_RETRY_S = 5
_START_S = 30.0


class SentText(WireModel):
    """A text, and perhaps when it was written."""

    text: Text
    time: str | float | None = None
    """ISO 8601, or seconds since 1970; by default now."""


_Texts = Annotated[list[Text | SentText], Field(min_length=1, max_length=_MOST_TEXTS)]


class TextsRequest(WireModel):
    """`POST /texts`: one text, or several."""

    text: Text | None = None
    time: str | float | None = None
    """Of `text`."""
    texts: Annotated[list[Text | SentText], Field(min_length=1, max_length=_MOST_TEXTS)] | None = (
        None
    )

    @model_validator(mode="after")
    def _one(self) -> TextsRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        return self

    @property
    def all(self) -> list[SentText]:
        """As a list."""
        if self.texts is None:
            assert self.text is not None, "it was validated"
            return [SentText(text=self.text, time=self.time)]
        return [SentText(text=t) if isinstance(t, str) else t for t in self.texts]


class Inbox:
    """Takes texts until it is closed.

    Args:
        spec: where it listens, and to whom.
        state: where texts wait.
        max_bytes: of a text.
        wake: is called when some came.

    Raises:
        PortError: the port is taken.
        SpecError: its tokens cannot be read.
    """

    def __init__(
        self, spec: InboxSpec, state: State, max_bytes: int, wake: Callable[[], object]
    ) -> None:
        check_port(spec.host, spec.port, "monitor.http")
        app = build_inbox(spec, state, max_bytes, wake)
        config = uvicorn.Config(
            app, host=spec.host, port=spec.port, log_level="warning", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="inbox", daemon=True)
        self._thread.start()
        deadline_s = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline_s:
                raise PortError(
                    f"nothing listens on {spec.host}:{spec.port}; set monitor.http.port"
                )
            time.sleep(0.01)

    def close(self) -> None:
        """Answers who has asked, and ends."""
        self._server.should_exit = True
        self._thread.join(_START_S)


def build_inbox(spec: InboxSpec, state: State, max_bytes: int, wake: Callable[[], object]) -> Gate:
    """The application."""
    router = APIRouter(route_class=JsonRoute)

    # Not `async`: what waits for the disk is done beside the event loop.
    @router.post("/texts", status_code=202)
    def take(body: TextsRequest) -> dict[str, int]:
        now_s = time.time()
        letters = [(_time(sent, now_s), sent.text) for sent in body.all]
        longest = max(len(text.encode()) for _, text in letters)
        if longest > max_bytes:
            raise Refusal(
                400,
                f"a text has {longest:,} bytes; this monitor takes at most {max_bytes:,} "
                "(monitor.max_text). Send the beginning of it",
                param="text" if body.texts is None else "texts",
            )
        with state.transaction():
            waiting = state.num_letters()
            if waiting + len(letters) > spec.max_waiting:
                raise Refusal(
                    503,
                    f"{waiting:,} texts wait for the classifier, and at most "
                    f"{spec.max_waiting:,} may (monitor.http.max_waiting); send them again when "
                    "Retry-After says",
                    code="queue_full",
                    retry_after_s=_RETRY_S,
                )
            state.add_letters(letters)
        wake()
        return {"accepted": len(letters)}

    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting": state.num_letters(), **state.counts()}

    app = FastAPI(title="monitor", docs_url=None, redoc_url=None)
    app.include_router(router)
    add_error_handlers(app)
    rules = Rules(
        keys=load_keys(spec, section="monitor.http"),
        requests_per_min=spec.requests_per_min,
        host=spec.host,
    )
    flow = Flow(rows=1, room=_MOST_REQUESTS)
    return Gate(app, health, flow, rules, name="monitor", page=None)


def _time(sent: SentText, now_s: float) -> float:
    try:
        return now_s if sent.time is None else time_of(sent.time, now_s)
    except UnreadError as error:
        raise Refusal(
            400,
            f"time is {ascii(sent.time)[:80]} ({error}); give ISO 8601 or seconds since 1970, of "
            "no later than now",
            param="time",
        ) from None
