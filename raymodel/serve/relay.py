"""From the gate to a replica: requests over a handle, and what is said when nobody answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.types import Message, Receive, Scope, Send

from raymodel.serve.bodies import read_body
from raymodel.serve.current import ANSWERS, BEGUN, COUNTED, FILTERED, TAKEN
from raymodel.serve.flow import Filtered, Notices, notices
from raymodel.serve.refusal import Refusal, queue_full, starting, timed_out

log = logging.getLogger(__name__)

_OF_REQUEST = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path"),
    *("query_string", "root_path", "headers", "client", "server"),
)
# A replica takes a request at once, even when it is full, unless its machine is far too busy.
ACCEPT_S = 5.0
_ACCEPT_WHEN_LOST_S = 0.5  # nobody took the last one
_HEALTH_S = 2.0
_HANGS_AFTER_S = 5.0  # beyond its own time limit; before Ray Serve's, which knows no JSON


class Replicas(NamedTuple):
    """How many there are of a model."""

    running: int
    others: int
    """That start, or end."""


class Sleep(NamedTuple):
    """Of a model whose last replica may go."""

    count_replicas: Callable[[], Awaitable[Replicas]]
    """Its replicas, as who starts them knows; it asks none of them."""
    wake_s: float
    """How long a request waits for one to start."""


class Relay:
    """An ASGI application that has requests answered by a replica.

    Args:
        ask: sends a request on; the batches of the messages of its response.
        ask_health: asks a replica how it is.
        name: of the model.
        timeout_s: after which a replica has ended its answer, unless it hangs.
        sleep: None where a replica always runs.
    """

    def __init__(
        self,
        ask: Callable[[dict[str, Any], bytes], Any],
        ask_health: Callable[[], Any],
        name: str,
        timeout_s: float,
        sleep: Sleep | None = None,
    ) -> None:
        self._ask, self._ask_health, self._name = ask, ask_health, name
        self._timeout_s, self._sleep = timeout_s, sleep
        self._known: Mapping[str, Any] | None = None
        """What a replica told of itself, where it may sleep."""
        self._was_asked = False
        """Whether a request came since."""
        self._asking: asyncio.Task[Mapping[str, Any]] | None = None
        self._is_lost = False

    async def health(self) -> Mapping[str, Any]:
        """What a replica tells; that it starts, when none says anything. All who ask meanwhile
        share one question."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._find_health())
        return await asyncio.shield(self._asking)

    async def _find_health(self) -> Mapping[str, Any]:
        return await (self._ask_one() if self._sleep is None else self._look(self._sleep))

    async def _look(self, sleep: Sleep) -> Mapping[str, Any]:
        """Asks a replica only when somebody else has just done so: a question by itself would wake
        the model, or keep it awake."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                replicas = await sleep.count_replicas()
        except (TimeoutError, RayError, RayServeException):
            return {"status": "starting", "model": self._name}
        known = self._known or {"model": self._name}
        if not replicas.running:
            return {**known, "status": "starting" if replicas.others else "asleep"}
        if self._known is None or self._was_asked:
            self._was_asked = False
            told = await self._ask_one()
            if told["status"] != "ok":
                return told
            self._known = told
        return self._known

    async def _ask_one(self) -> Mapping[str, Any]:
        asked = self._ask_health()
        try:
            async with asyncio.timeout(_ACCEPT_WHEN_LOST_S if self._is_lost else _HEALTH_S):
                told: Mapping[str, Any] = await asked
        except (TimeoutError, RayError, RayServeException):
            asked.cancel()
            self._is_lost = True
            return {"status": "starting", "model": self._name}
        self._is_lost = False
        return told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refusal when no replica answers, or when it goes while it does."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"this server does not speak {scope['type']}")
        body = await read_body(scope, receive, 2**62)  # the gate has bounded it
        self._was_asked = True
        answer = self._ask(_plain(scope), body)
        passing = asyncio.ensure_future(self._pass_on(answer, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            done, _ = await asyncio.wait(
                {passing, leaving},
                timeout=self._timeout_s + self._wake_s + _HANGS_AFTER_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if passing in done:
                passing.result()
            elif not done:
                raise timed_out(self._timeout_s)
        finally:
            if not (passing.done() and not passing.cancelled() and passing.exception() is None):
                answer.cancel()  # of one that has ended it costs as much
            for task in (passing, leaving):
                task.cancel()

    @property
    def _wake_s(self) -> float:
        return 0.0 if self._sleep is None else self._sleep.wake_s

    async def _pass_on(self, answer: Any, send: Send) -> None:
        told = notices()
        try:
            await _pass(await self._accepted(answer), told, send)
            async for messages in answer:
                await _pass(messages, told, send)
        except BackPressureError as error:
            raise queue_full(error.args[0], retry_after_s=1) from error
        except RayTaskError as error:
            log.exception("a replica failed")
            raise Refusal(500, "the model failed; the server's log has more") from error
        except (RayError, RayServeException) as error:
            self._is_lost = True
            raise starting("the replica that had this request is gone") from error

    async def _accepted(self, answer: Any) -> list[Message]:
        """What a replica says as it takes the request. Raises Refusal (503) when none does."""
        accept_s = _ACCEPT_WHEN_LOST_S if self._is_lost else ACCEPT_S
        try:
            async with asyncio.timeout(self._wake_s or accept_s):
                first: list[Message] = await anext(answer)
        except TimeoutError:
            self._is_lost = True
            why = "no replica of the model is there"
            if self._sleep is not None:
                why = f"the model did not wake within {self._wake_s:g} s (serve.replicas.wake)"
            raise starting(why) from None
        self._is_lost = False
        return first


async def _pass(messages: list[Message], told: Notices, send: Send) -> None:
    """Messages of a response to the client, and the notices among them to the gate."""
    for message in messages:
        if message["type"] == ANSWERS:
            told.answer(message["version"], message["rows"])
        elif message["type"] == TAKEN:
            told.take_up(message.get("ago_s", 0.0))
        elif message["type"] == BEGUN:
            told.begin(message.get("ago_s", 0.0))
        elif message["type"] == COUNTED:
            told.count(*message["tokens"])
        elif message["type"] == FILTERED:
            told.filter(Filtered(*message["found"]), message["count"])
        else:
            await send(message)


def _plain(scope: Scope) -> dict[str, Any]:
    """What describes a request, without what belongs to this process."""
    return {name: scope[name] for name in _OF_REQUEST if name in scope}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    for word in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{word}.complete"})
