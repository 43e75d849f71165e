"""What runs on Ray Serve: a gate that meets the requests, and the replicas of the model behind it.

The gate loads no model and answers on its own what must not wait: refusals, and how the model is.
It passes requests on through a handle and so sees, as no proxy does, that a replica has died, that
none is there, or that all are full; whatever it was, clients get a refusal of one kind.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.types import Message, Receive, Scope, Send

from raymodel.cluster.spec import ClusterSpec
from raymodel.serve.bodies import read_body, replay
from raymodel.serve.flow import Flow, notices, tell_notices
from raymodel.serve.gate import SPARE_REQUESTS, Gate, Rules
from raymodel.serve.refusal import Refusal, queue_full, starting, timed_out
from raymodel.serve.spec import ServeSpec
from raymodel.spec.own import use_folder
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger(__name__)

LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
_MODEL = "model"
_REPLICAS_BY_GATE = 8
# More than a gate lets in by far: it refuses, not Ray Serve, which does so in words of its own.
_MOST_AT_GATE = 100_000
_BEGUN, _COUNTED = "raymodel.begun", "raymodel.counted"
_OF_REQUEST = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path"),
    *("query_string", "root_path", "headers", "client", "server"),
)
# A replica takes a request at once, even when it is full, unless its machine is far too busy.
_ACCEPT_S = 5.0
_ACCEPT_WHEN_LOST_S = 0.5  # nobody took the last one
_HEALTH_S = 2.0
_HANGS_AFTER_S = 5.0  # beyond its own time limit; before Ray Serve's, which knows no JSON
# A dead replica is replaced when it is next asked how it is; Ray Serve's default is ten seconds.
_HEALTH_PERIOD_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What is deployed."""

    spec: ServeSpec
    model: Location
    task: str
    name: str
    """Of the model, for clients."""
    rules: Rules
    cluster: ClusterSpec
    folder: Path
    """The job's working directory, where its own code lies."""


def build_deployments(deployed: Deployed) -> serve.Application:
    """The application, not yet running."""
    spec = deployed.spec
    gate = serve.deployment(
        name="gate",
        num_replicas=num_gates(spec),
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MOST_AT_GATE,
        graceful_shutdown_timeout_s=spec.grace + _ACCEPT_S,
        logging_config=LOGGING,
    )(_gate_class(deployed))
    return gate.bind(_model_deployment(deployed))


def num_gates(spec: ServeSpec) -> int:
    """A gate only passes on, and keeps up with several replicas."""
    return math.ceil(spec.replicas.max / _REPLICAS_BY_GATE)


# ---- the replicas of the model -------------------------------------------------------------------


def _model_deployment(deployed: Deployed) -> serve.Application:
    spec, cluster = deployed.spec, deployed.cluster
    scale: dict[str, Any] = {"num_replicas": spec.replicas.min}
    if spec.replicas.max > spec.replicas.min:
        autoscaling = {
            "min_replicas": spec.replicas.min,
            "max_replicas": spec.replicas.max,
            "target_ongoing_requests": spec.batch,
        }
        scale = {"num_replicas": None, "autoscaling_config": autoscaling}
    return serve.deployment(
        name=_MODEL,
        ray_actor_options={
            "num_cpus": cluster.cpus_per_worker,
            "num_gpus": cluster.gpus_per_worker,
        },
        # Beyond what the service takes, so that it refuses what is too much for it alone; and room
        # to say how it is while it is full.
        max_ongoing_requests=spec.batch + spec.queue + SPARE_REQUESTS,
        max_queued_requests=spec.queue,
        # Once more for a hiccup of the storage; a broken model fails at once and again.
        max_constructor_retry_count=2,
        # Answers under way are finished before a replica goes.
        graceful_shutdown_timeout_s=spec.timeout,
        health_check_period_s=_HEALTH_PERIOD_S,
        logging_config=LOGGING,
        **scale,
    )(_model_class(deployed)).bind()


def _model_class(deployed: Deployed) -> type:
    class ModelServer:
        """A replica: loads the model when it starts."""

        def __init__(self) -> None:
            from raymodel.serve.app import build_inner

            # Serve's controller, which starts replicas, may be of a job in another directory.
            if deployed.folder.is_dir():
                use_folder(deployed.folder)
            self.service = _load(deployed)
            self.app = build_inner(self.service)

        def __del__(self) -> None:
            if hasattr(self, "service"):
                self.service.close()

        def check_health(self) -> None:
            """Ray replaces a replica that raises here."""
            if not self.service.is_healthy:
                raise RuntimeError("the engine fails at every step")

        async def health(self) -> dict[str, Any]:
            """What `/health` tells."""
            told: dict[str, Any] = self.service.health()
            return told

        async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
            """The messages of the response, those that are there at once together."""
            async for messages in run_app(self.app, scope, body):
                yield messages

    return ModelServer


class _Told:
    """Notices as messages among those of the response."""

    def __init__(self, sent: asyncio.Queue[Message | None]) -> None:
        self._sent = sent

    def begin(self) -> None:
        self._sent.put_nowait({"type": _BEGUN})

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._sent.put_nowait({"type": _COUNTED, "tokens": (prompt_tokens, completion_tokens)})


async def run_app(app: Any, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
    """What an ASGI application sends; first nothing, which says that the request arrived."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()

    async def receive() -> Message:
        await asyncio.Event().wait()  # who leaves ends this generator
        raise AssertionError

    async def run() -> None:
        tell_notices(_Told(sent))
        try:
            await app(scope, replay(body, receive), sent.put)
        except Exception:
            log.exception("a request failed")  # the application has answered it
        finally:
            sent.put_nowait(None)

    yield []
    task = asyncio.ensure_future(run())
    try:
        while True:
            batch = [await sent.get()]
            while not sent.empty():
                batch.append(sent.get_nowait())
            messages = [message for message in batch if message is not None]
            if messages:
                yield messages
            if None in batch:
                return
    finally:
        task.cancel()


def _load(deployed: Deployed) -> Any:
    import torch

    from raymodel.serve.load import load_service

    spec, cluster = deployed.spec, deployed.cluster
    # Ray gives an actor one thread for each logical CPU, which says nothing of the cores it has.
    cores = os.cpu_count() or 1
    torch.set_num_threads(cluster.threads_per_worker or max(1, cores // spec.replicas.max))
    with local_folder(deployed.model) as folder:
        wants_gpu = cluster.gpus_per_worker > 0
        return load_service(
            folder, deployed.task, name=deployed.name, spec=spec, wants_gpu=wants_gpu
        )


# ---- the gate ------------------------------------------------------------------------------------


def _gate_class(deployed: Deployed) -> Callable[..., Any]:
    def build() -> Gate:
        handle = serve.get_deployment_handle(_MODEL)
        relay = Relay(
            lambda scope, body: handle.options(stream=True).answer.remote(scope, body),
            lambda: handle.health.remote(),
            deployed.name,
            deployed.spec.timeout,
        )
        return build_gate(relay, deployed)

    @serve.ingress(build)
    class GateServer:
        """The ingress."""

        def __init__(self, model: DeploymentHandle[Any]) -> None:
            self._model = model  # keeps the two in one application

        async def drain(self) -> tuple[str, bool]:
            """Begins to drain this gate, once; its name, and whether it is done."""
            gate: Gate = self.app  # type: ignore[attr-defined]
            name = serve.get_replica_context().replica_id.unique_id
            return name, gate.drain(deployed.spec.grace)

    return GateServer


def build_gate(relay: Relay, deployed: Deployed) -> Gate:
    """The gate before the replicas."""
    spec = deployed.spec
    at_once, gates = spec.batch + spec.queue, num_gates(spec)
    flow = Flow(
        slots=max(1, spec.batch * spec.replicas.min // gates),
        room=at_once * math.ceil(spec.replicas.max / gates) + SPARE_REQUESTS,
    )
    return Gate(relay, relay.health, flow, deployed.rules, deployed.name)


class Relay:
    """An ASGI application that has requests answered by a replica.

    Args:
        ask: sends a request on; the batches of the messages of its response.
        ask_health: asks a replica how it is.
        name: of the model.
        timeout_s: after which a replica has ended its answer, unless it hangs.
    """

    def __init__(
        self,
        ask: Callable[[dict[str, Any], bytes], Any],
        ask_health: Callable[[], Any],
        name: str,
        timeout_s: float,
    ) -> None:
        self._ask, self._ask_health, self._name = ask, ask_health, name
        self._timeout_s = timeout_s
        self._asking: asyncio.Task[Mapping[str, Any]] | None = None
        self._is_lost = False

    async def health(self) -> Mapping[str, Any]:
        """What a replica tells; that it starts, when none says anything. All who ask meanwhile
        share one question."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._find_health())
        return await asyncio.shield(self._asking)

    async def _find_health(self) -> Mapping[str, Any]:
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
        answer = self._ask(_plain(scope), body)
        passing = asyncio.ensure_future(self._pass_on(answer, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            done, _ = await asyncio.wait(
                {passing, leaving},
                timeout=self._timeout_s + _HANGS_AFTER_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if passing in done:
                passing.result()
            elif not done:
                raise timed_out(self._timeout_s)
        finally:
            for task in (passing, leaving):
                task.cancel()
            answer.cancel()  # without effect on one that has ended

    async def _pass_on(self, answer: Any, send: Send) -> None:
        told = notices()
        try:
            await self._accepted(answer)
            async for messages in answer:
                for message in messages:
                    if message["type"] == _BEGUN:
                        told.begin()
                    elif message["type"] == _COUNTED:
                        told.count(*message["tokens"])
                    else:
                        await send(message)
        except BackPressureError as error:
            raise queue_full(error.args[0], retry_after_s=1) from error
        except RayTaskError as error:
            log.exception("a replica failed")
            raise Refusal(500, "the model failed; the server's log has more") from error
        except (RayError, RayServeException) as error:
            self._is_lost = True
            raise starting("the replica that had this request is gone") from error

    async def _accepted(self, answer: Any) -> None:
        """Raises Refusal (503) when no replica takes the request."""
        try:
            async with asyncio.timeout(_ACCEPT_WHEN_LOST_S if self._is_lost else _ACCEPT_S):
                await anext(answer)
        except TimeoutError:
            self._is_lost = True
            raise starting("no replica of the model is there") from None
        self._is_lost = False


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
