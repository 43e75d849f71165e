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
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from starlette.types import Message

from raymodel.cluster.spec import ClusterSpec
from raymodel.serve.capacity import UNASKED_TOKENS, find_rows, longest_wait_s
from raymodel.serve.current import Current, Follower
from raymodel.serve.filters.load import build_filters
from raymodel.serve.flow import Flow
from raymodel.serve.follow import LOOK_S, Told, Version, Watcher
from raymodel.serve.gate import SPARE_REQUESTS, Gate, Rules
from raymodel.serve.grounded import Grounded
from raymodel.serve.library import Found
from raymodel.serve.refusal import starting
from raymodel.serve.relay import ACCEPT_S, Relay, Replicas, Sleep
from raymodel.serve.spec import ServeSpec
from raymodel.spec.own import use_folder
from raymodel.storage.registry import Run

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from raymodel.serve.filters.chain import Filters
    from raymodel.serve.service import Service

log = logging.getLogger(__name__)

LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
_MODEL, _WATCHER, _DOCUMENTS = "model", "watcher", "documents"
_WATCHER_ANSWER_S = 30.0  # a replica may start before it
_REPLICAS_BY_GATE = 8
# More than a gate lets in by far: it refuses, not Ray Serve, which does so in words of its own.
_MOST_AT_GATE = 100_000
# A dead replica is replaced when it is next asked how it is; Ray Serve's default is ten seconds.
_HEALTH_PERIOD_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What is deployed."""

    spec: ServeSpec
    model: Version
    """That replicas load, unless they follow another."""
    follows: Run | None
    """Whose promoted model they follow."""
    name: str
    """Of the model, for clients."""
    rules: Rules
    cluster: ClusterSpec
    folder: Path
    """The job's working directory, where its own code lies."""
    members: tuple[Version, ...] = ()
    """That answer together with the model; see `serve.ensemble`."""
    embedder: Version | None = None
    """That finds documents; see `serve.documents`."""
    draft: Version | None = None
    """That writes ahead of the model; see `serve.draft`."""
    classifiers: tuple[Version, ...] = ()
    """Of the filters that have a model, in their order; see `serve.filters`."""

    @property
    def rows(self) -> int:
        """Requests that a replica is given at the same time."""
        device = "cuda" if self.cluster.gpus_per_worker else "cpu"
        return find_rows(self.spec, self.model.task, device)


def build_deployments(deployed: Deployed) -> serve.Application:
    """The application, not yet running."""
    spec = deployed.spec
    gate = serve.deployment(
        name="gate",
        num_replicas=num_gates(spec),
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MOST_AT_GATE,
        graceful_shutdown_timeout_s=spec.grace + ACCEPT_S,
        logging_config=LOGGING,
    )(_gate_class(deployed))
    follows = deployed.follows
    watcher = () if follows is None else (_watcher_deployment(deployed, follows),)
    documents = () if deployed.embedder is None else (_documents_deployment(deployed),)
    return gate.bind(_model_deployment(deployed, watcher), *documents)


def num_gates(spec: ServeSpec) -> int:
    """A gate only passes on, and keeps up with several replicas."""
    return math.ceil(spec.replicas.max / _REPLICAS_BY_GATE)


# ---- the replicas of the model -------------------------------------------------------------------


def _model_deployment(
    deployed: Deployed, watcher: tuple[serve.Application, ...]
) -> serve.Application:
    spec, cluster = deployed.spec, deployed.cluster
    scale: dict[str, Any] = {"num_replicas": spec.replicas.min}
    if spec.replicas.max > spec.replicas.min:
        autoscaling: dict[str, Any] = {
            "min_replicas": spec.replicas.min,
            "max_replicas": spec.replicas.max,
            "target_ongoing_requests": deployed.rows,
        }
        if not spec.replicas.min:
            # One to begin with, which shows that the model can be served.
            autoscaling["initial_replicas"] = 1
            autoscaling["downscale_to_zero_delay_s"] = spec.replicas.idle
        scale = {"num_replicas": None, "autoscaling_config": autoscaling}
    return serve.deployment(
        name=_MODEL,
        ray_actor_options={
            "num_cpus": cluster.cpus_per_worker,
            "num_gpus": cluster.gpus_per_worker,
        },
        # Beyond what the service takes, so that it refuses what is too much for it alone; and room
        # to say how it is while it is full.
        max_ongoing_requests=deployed.rows + spec.queue + SPARE_REQUESTS,
        max_queued_requests=spec.queue,
        # Once more for a hiccup of the storage; a broken model fails at once and again.
        max_constructor_retry_count=2,
        # Answers under way are finished before a replica goes.
        graceful_shutdown_timeout_s=spec.timeout,
        health_check_period_s=_HEALTH_PERIOD_S,
        logging_config=LOGGING,
        **scale,
    )(_model_class(deployed)).bind(*watcher)


def _model_class(deployed: Deployed) -> type:
    class ModelServer:
        """A replica: loads the model when it starts, and follows the watcher where there is one."""

        def __init__(self, watcher: DeploymentHandle[Any] | None = None) -> None:
            # Serve's controller, which starts replicas, may be of a job in another directory.
            if deployed.folder.is_dir():
                use_folder(deployed.folder)
            first = deployed.model
            if watcher is not None:
                # It is asked in threads, where no event loop is.
                watcher._init(_run_router_in_separate_loop=True)  # type: ignore[no-untyped-call]
                first = _away_from_loop(_ask_good, watcher) or first
            # Before the model, which then has what memory they leave; the same for all models.
            self.filters = _load_filters(deployed)
            self.current = Current(
                lambda version: _load_all(deployed, version, self.filters), first
            )
            self.follower: Follower | None = None
            if watcher is not None:
                name = serve.get_replica_context().replica_id.unique_id
                self.follower = Follower(
                    self.current, _Watcher(watcher, name), deployed.spec.canary
                )

        def __del__(self) -> None:
            if follower := getattr(self, "follower", None):
                follower.stop()
            if hasattr(self, "current"):
                self.current.close()
            if hasattr(self, "filters"):
                self.filters.close()

        def check_health(self) -> None:
            """Ray replaces a replica that raises here."""
            if not self.current.service.is_healthy:
                raise RuntimeError("the engine fails at every step")

        async def health(self) -> dict[str, Any]:
            """What `/health` tells."""
            follows = {} if self.follower is None else self.follower.state()
            return self.current.health() | follows

        async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
            """The messages of the response, those that are there at once together."""
            async for messages in self.current.answer(scope, body):
                yield messages

    return ModelServer


def _load_all(deployed: Deployed, first: Version, filters: Filters) -> Service:
    """The service of a model, and of those that answer together with it, behind filters."""
    service = _load(deployed, first, draft=deployed.draft)
    if deployed.members:
        from raymodel.serve.ensemble import EnsembleService

        service = EnsembleService([service, *(_load(deployed, m) for m in deployed.members)])
    service.filters = filters
    return service


def _load_filters(deployed: Deployed) -> Filters:
    """The filters, with the services of their models."""
    versions = iter(deployed.classifiers)
    return build_filters(
        deployed.spec.filters,
        lambda spec: _load(deployed, next(versions), name=f"{deployed.name}-{spec.label}"),
    )


def _load(
    deployed: Deployed, version: Version, name: str | None = None, draft: Version | None = None
) -> Service:
    """The service of a model; of the application's own, or of one with a name of its own."""
    import torch

    from raymodel.serve.load import load_service

    cluster = deployed.cluster
    # Ray gives an actor one thread for each logical CPU, which says nothing of the cores it has.
    cores = os.cpu_count() or 1
    replicas = deployed.spec.replicas.max
    torch.set_num_threads(cluster.threads_per_worker or max(1, cores // replicas))
    return load_service(
        version.location,
        version.task,
        name=name or deployed.name,
        spec=deployed.spec,
        wants_gpu=cluster.gpus_per_worker > 0 and name is None,
        draft=draft,
    )


# ---- the documents -------------------------------------------------------------------------------


def _documents_deployment(deployed: Deployed) -> serve.Application:
    spec, embedder = deployed.spec, deployed.embedder

    class DocumentsServer:
        """One process that knows the documents, with the model that finds them."""

        def __init__(self) -> None:
            from raymodel.serve.documents import Documents

            if deployed.folder.is_dir():
                use_folder(deployed.folder)
            assert spec.documents is not None, "there is an embedder for them"
            assert embedder is not None, "this is its deployment"
            self.filters = _load_filters(deployed)
            service = _load(deployed, embedder, name=f"{deployed.name}-embedder")
            service.filters = self.filters
            folder = deployed.folder / spec.documents.path
            # Embedding waits for threads of the service, and not in the event loop.
            self.documents = _away_from_loop(Documents, service, spec.documents, folder)

        def __del__(self) -> None:
            if hasattr(self, "documents"):
                self.documents.close()
            if hasattr(self, "filters"):
                self.filters.close()

        async def state(self) -> dict[str, Any]:
            """What `/health` tells."""
            told: dict[str, Any] = self.documents.state()
            return told

        async def find(self, questions: list[str]) -> list[Found]:
            """See `Documents.find`."""
            found: list[Found] = await self.documents.find(questions)
            return found

        async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
            """The messages of a response of the embedder."""
            async for messages in self.documents.answer(scope, body):
                yield messages

    return serve.deployment(
        name=_DOCUMENTS,
        num_replicas=1,
        ray_actor_options={"num_cpus": deployed.cluster.cpus_per_worker},
        max_ongoing_requests=_MOST_AT_GATE,
        max_constructor_retry_count=2,
        health_check_period_s=_HEALTH_PERIOD_S,
        logging_config=LOGGING,
    )(DocumentsServer).bind()


# ---- the watcher ---------------------------------------------------------------------------------


def _watcher_deployment(deployed: Deployed, run: Run) -> serve.Application:
    class WatcherServer:
        """One process that decides which replica changes to what."""

        def __init__(self) -> None:
            if deployed.folder.is_dir():
                use_folder(deployed.folder)  # a task may be the user's own
            self.watcher = Watcher(run, deployed.model)
            self.looked_s = -LOOK_S
            self.turn = asyncio.Lock()  # one replica is told after the other

        async def good(self) -> Version:
            return self.watcher.good

        async def tell(self, replica: str, has: Version, is_loading: bool) -> Told:
            async with self.turn:
                if time.monotonic() - self.looked_s >= LOOK_S:
                    # Beside the event loop, which also says that this process lives.
                    await asyncio.to_thread(self.watcher.look)
                    self.looked_s = time.monotonic()
                return self.watcher.tell(replica, has, is_loading=is_loading)

        async def note(self, replica: str, version: Version, error: str | None) -> None:
            async with self.turn:
                self.watcher.note(replica, version, error)

    return serve.deployment(
        name=_WATCHER,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MOST_AT_GATE,
        logging_config=LOGGING,
    )(WatcherServer).bind()


class _Watcher:
    """The watcher as a replica of this name sees it; asked in a thread beside the event loop."""

    def __init__(self, handle: DeploymentHandle[Any], name: str) -> None:
        self._handle, self._name = handle, name

    def tell(self, has: Version, *, is_loading: bool) -> Told | None:
        """None when it does not answer."""
        told: Told | None = _wait_for(self._handle.tell.remote(self._name, has, is_loading))
        return told

    def note(self, version: Version, error: str | None) -> None:
        _wait_for(self._handle.note.remote(self._name, version, error))


def _ask_good(handle: DeploymentHandle[Any]) -> Version | None:
    good: Version | None = _wait_for(handle.good.remote())
    return good


def _wait_for(asked: Any) -> Any:
    try:
        return asked.result(timeout_s=_WATCHER_ANSWER_S)
    except (RayError, RayServeException, TimeoutError, RuntimeError) as error:
        log.warning("the watcher does not answer (%s)", error)
        return None


def _away_from_loop(call: Callable[..., Any], *given: Any) -> Any:
    """In a thread, as Ray Serve lets nobody wait in the event loop that starts a replica."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call, *given).result()


# ---- the gate ------------------------------------------------------------------------------------


def _gate_class(deployed: Deployed) -> Callable[..., Any]:
    def build() -> Gate:
        handle = serve.get_deployment_handle(_MODEL)
        relay = Relay(
            _answers_of(handle),
            lambda: handle.health.remote(),
            deployed.name,
            deployed.spec.timeout,
            None if deployed.spec.replicas.min else Sleep(_count, deployed.spec.replicas.wake),
        )
        behind = relay if deployed.embedder is None else _ground(relay, deployed)
        return build_gate(behind, deployed)

    @serve.ingress(build)
    class GateServer:
        """The ingress."""

        def __init__(self, *behind: DeploymentHandle[Any]) -> None:
            self._behind = behind  # keeps them in one application

        async def drain(self) -> tuple[str, bool]:
            """Begins to drain this gate, once; its name, and whether it is done."""
            gate: Gate = self.app  # type: ignore[attr-defined]
            name = serve.get_replica_context().replica_id.unique_id
            return name, gate.drain(deployed.spec.grace)

    return GateServer


def _answers_of(handle: DeploymentHandle[Any]) -> Callable[[dict[str, Any], bytes], Any]:
    """Asks for answers. What is called is made at the first question, in the event loop of all, and
    kept: each way there is a handle of its own."""
    found: list[DeploymentHandle[Any]] = []

    def ask(scope: dict[str, Any], body: bytes) -> Any:
        if not found:
            # Plain data goes both ways, which needs no pickle that takes code along.
            found.append(
                handle.options(
                    method_name="answer",
                    stream=True,
                    request_serialization="pickle",
                    response_serialization="pickle",
                )
            )
        return found[0].remote(scope, body)

    return ask


async def _count() -> Replicas:
    """The replicas of this gate's model, as Ray Serve's controller tells."""
    name = serve.get_replica_context().app_name
    status = await asyncio.to_thread(serve.status)
    application = status.applications.get(name)
    model = None if application is None else application.deployments.get(_MODEL)
    if model is None:  # the controller has only begun with it
        return Replicas(0, 1)
    # Names, or members of an enumeration that are equal to them.
    states = {str(getattr(s, "value", s)): num for s, num in model.replica_states.items()}
    running = states.get("RUNNING", 0)
    return Replicas(running, sum(states.values()) - running)


def _ground(relay: Relay, deployed: Deployed) -> Grounded:
    """Has the chats of a model answer from the documents."""
    handle = serve.get_deployment_handle(_DOCUMENTS)
    embedder = Relay(
        _answers_of(handle),
        lambda: handle.state.remote(),
        f"{deployed.name}-embedder",
        deployed.spec.timeout,
    )

    async def find(questions: Sequence[str]) -> Sequence[Found]:
        asked: Any = handle.find.remote(list(questions))
        try:
            async with asyncio.timeout(deployed.spec.timeout):
                found: Sequence[Found] = await asked
        except (TimeoutError, RayError, RayServeException) as error:
            asked.cancel()
            raise starting("nobody looks into the documents") from error
        return found

    return Grounded(
        relay,
        embedder,
        find,
        deployed.spec.max_tokens or UNASKED_TOKENS,
        (relay.health, embedder.health),
    )


def build_gate(behind: Relay | Grounded, deployed: Deployed) -> Gate:
    """The gate before the replicas."""
    spec = deployed.spec
    at_once, gates = deployed.rows + spec.queue, num_gates(spec)
    flow = Flow(
        rows=deployed.rows,
        room=at_once * math.ceil(spec.replicas.max / gates) + SPARE_REQUESTS,
        replicas=max(1, spec.replicas.min) / gates,
        longest_wait_s=partial(longest_wait_s, spec, deployed.model.task),
    )
    return Gate(behind, behind.health, flow, deployed.rules, deployed.name)
