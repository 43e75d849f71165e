"""The Ray wiring of serving: replicas of one application behind Ray Serve's HTTP proxy."""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ray
from pydantic import SecretStr
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from raymodel.cluster.holders import app_name_of
from raymodel.cluster.places import find_lack
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ArtifactError, ClusterError, PortError, RaymodelError, SourceError
from raymodel.model.purpose import find_task
from raymodel.serve.deployment import LOGGING, Deployed, build_deployments, num_gates
from raymodel.serve.draft_rules import check_draft
from raymodel.serve.filters.chain import CODE
from raymodel.serve.filters.check import check_classifier
from raymodel.serve.filters.spec import classifiers_of
from raymodel.serve.follow import Version, version_of
from raymodel.serve.gate import Rules
from raymodel.serve.keys import Key, load_keys, new_key
from raymodel.serve.load import service_of
from raymodel.serve.port import check_port, wait_for_port
from raymodel.serve.spec import DocumentsSpec, ServeSpec
from raymodel.storage.artifact import Artifact
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

if TYPE_CHECKING:
    from raymodel.observe.story import Story

_REQUEST_TIMEOUT_SPARE_S = 10.0
_DRAIN_ANSWER_S = 5.0
_DRAIN_LOOK_S = 0.1
_SHUTDOWN_TIMEOUT_S = 30.0  # as `serve.shutdown` waits


class _FilteredError(RaymodelError):
    """A filter refused what was asked."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running application. As a context manager it stops at the end, unless it is kept."""

    url: str
    """Where it answers, such as `http://127.0.0.1:8000`."""
    name: str
    """The model's name in the API."""
    task: str
    app_name: str
    """Ray Serve's name for the application."""
    keep: bool
    token: SecretStr | None
    spec: ServeSpec
    started_serve: bool
    """Whether Ray Serve was started for it, and is shut down with it."""

    def ask(self, values: Mapping[str, Any]) -> str:
        """Asks one question over HTTP; the answer in a line, or that a filter refused it.

        Args:
            values: what the model is given, by role; texts as they are, files in base64.

        Raises:
            RaymodelError: the server refused or could not be reached; the message says why.
        """
        service = service_of(self.task)
        path, body = service.question(values, self.name)
        try:
            answer = service.answer(self._request(path, body))
        except _FilteredError:
            return "(nothing: a filter refused the question)"
        if answer.get("finish_reason") == CODE:
            return "(nothing: a filter refused the answer)"
        return get_task(self.task).answer_text(answer)

    def health(self) -> dict[str, Any]:
        """What `/health` tells: model, dtype, engine, load."""
        return self._request("/health")

    def stop(self) -> None:
        """Takes the application down, and Ray Serve with it when it was started for it.

        Nobody is let in any more, and answers under way have `spec.grace` to end.
        """
        _drain(self.app_name, self.spec)
        _take_down(self.app_name, self.started_serve)
        if self.started_serve:
            address = urllib.parse.urlsplit(self.url)
            assert address.hostname, self.url
            assert address.port, self.url
            wait_for_port(address.hostname, address.port, _SHUTDOWN_TIMEOUT_S)

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.keep:
            self.stop()

    def _request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        timeout_s = self.spec.timeout + self.spec.replicas.wake_s + _REQUEST_TIMEOUT_SPARE_S
        # Without the proxies of the environment: the server is this cluster's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                with opener.open(request, timeout=timeout_s) as response:
                    return dict(json.load(response))
            except urllib.error.HTTPError as error:
                # As every client should: on a busy machine a new server takes a moment.
                again_s = float(error.headers.get("Retry-After") or 0)
                if error.code == 503 and time.monotonic() + again_s < deadline_s:
                    time.sleep(again_s)
                    continue
                told = error.read().decode(errors="replace")[:500]
                if error.code == 400 and CODE in told:
                    raise _FilteredError(told) from error
                raise RaymodelError(f"{self.url}{path} answered {error.code}: {told}") from error
            except OSError as error:
                raise RaymodelError(f"{self.url}{path} cannot be reached: {error}") from error


def run_serve(
    spec: ServeSpec,
    model: Artifact | Location,
    *,
    job_name: str,
    cluster: ClusterSpec,
    story: Story,
    follows: Run | None = None,
    members: Sequence[Artifact | Location] = (),
    embedder: Artifact | Location | None = None,
    classifiers: Sequence[Artifact | Location] = (),
    draft: Artifact | Location | None = None,
    keep: bool = False,
) -> Served:
    """Serves a model on the Ray that this process is connected to; returns once it answers.

    Args:
        spec: where and how.
        model: a model artifact, or a Hugging Face folder.
        job_name: names the application, and the model unless `spec.name` does.
        cluster: GPUs and threads of a replica are those of a training worker.
        story: told what is waited for.
        follows: the run whose promoted model takes the place of this one; see `find_followed`.
        members: the models that `spec.ensemble` names.
        embedder: the model that `spec.documents` names.
        classifiers: the models that `spec.filters` name, in their order.
        draft: the model that `spec.draft` names.
        keep: leave it running at the end of a `with` block.

    Raises:
        PortError: the port is taken.
        SpecError: the token's environment variable is empty.
        ArtifactError: the model cannot be served.
        ClusterError: the replicas do not start.
    """
    task = find_task(model)
    name = spec.name or job_name
    # Of those that the clients have, perhaps only the digests are known here.
    token, key = new_key("raymodel") if spec.has_token else (None, None)
    app = build_application(
        spec,
        model,
        job_name=job_name,
        cluster=cluster,
        follows=follows,
        members=members,
        embedder=embedder,
        classifiers=classifiers,
        draft=draft,
        own=key,
    )
    app_name = app_name_of(job_name)
    started_serve = _start_serve(spec, app_name)
    replicas = ClusterSpec(**cluster.to_dict() | {"workers": max(1, spec.replicas.min)})
    try:
        with story.waiting("the model's replicas", lambda: str(find_lack(replicas) or "")):
            serve.run(app, name=app_name, route_prefix="/", logging_config=LOGGING)
    except (RuntimeError, TimeoutError, ValueError) as error:
        cause = _cause(app_name) or str(error)
        _take_down(app_name, started_serve)
        raise ClusterError(
            f"the model {name!r} does not start on Ray Serve: {cause}. Replicas need "
            f"{_resources(cluster)} each; check the model's folder and the cluster's resources"
        ) from error
    served = Served(
        url=spec.url,
        name=name,
        task=task,
        app_name=app_name,
        keep=keep,
        token=None if token is None else SecretStr(token),
        spec=spec,
        started_serve=started_serve,
    )
    served.health()
    return served


def replace_app(job_name: str) -> None:
    """Takes down the app of a job, and Ray Serve with its last one, so that it may move."""
    app_name = app_name_of(job_name)
    others = set(serve.status().applications) - {app_name}
    _take_down(app_name, started_serve=not others)


def build_application(
    spec: ServeSpec,
    model: Artifact | Location,
    *,
    job_name: str,
    cluster: ClusterSpec,
    follows: Run | None = None,
    members: Sequence[Artifact | Location] = (),
    embedder: Artifact | Location | None = None,
    classifiers: Sequence[Artifact | Location] = (),
    draft: Artifact | Location | None = None,
    own: Key | None = None,
) -> serve.Application:
    """The application of `run_serve`, not yet running. Raises SpecError and ArtifactError alike.

    Lists that filters name are read here: replicas may start on other machines.

    Args:
        own: a key beside those of the clients.
    """
    keys, version = load_keys(spec), version_of(model)
    if spec.documents is not None:
        check_grounded(spec.documents, version, Path.cwd())
    ahead = None if draft is None else version_of(draft)
    if ahead is not None:
        check_draft(version.task, ahead.task)
    judges = tuple(map(version_of, classifiers))
    for judge, each in zip(classifiers_of(spec.filters), judges, strict=True):
        check_classifier(judge, each.location, each.task)
    filters = tuple(each.with_lists() for each in spec.filters)
    spec = spec.model_copy(update={"filters": filters})
    name = spec.name or job_name
    rules = Rules(
        keys=keys if own is None else (*keys, own),
        requests_per_min=spec.requests_per_min,
        max_body_bytes=spec.max_body,
        host=spec.host,
    )
    return build_deployments(
        Deployed(
            spec=spec,
            model=version,
            follows=follows,
            name=name,
            rules=rules,
            cluster=cluster,
            folder=Path.cwd(),
            members=tuple(map(version_of, members)),
            embedder=None if embedder is None else version_of(embedder),
            classifiers=judges,
            draft=ahead,
        )
    )


def check_grounded(spec: DocumentsSpec, version: Version, base_dir: Path) -> None:
    """Raises ArtifactError for a model that answers no chats, SourceError without documents."""
    if get_task(version.task).answers != "stream":
        raise ArtifactError(
            f"serve.documents is for a model that writes texts, and this one is for "
            f"{version.task}; leave it out, or serve a chat model"
        )
    folder = base_dir / spec.path
    if not folder.is_dir():
        raise SourceError(
            f"serve.documents.path is {spec.path!r}, and {folder} is no folder; name the one that "
            "holds the documents"
        )


def _start_serve(spec: ServeSpec, app_name: str) -> bool:
    """Starts Ray Serve on the port; False when this cluster's Serve already listens there.

    One that serves this application alone moves to another port with it.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = _running_http()
    if running is not None:
        if (running.host, running.port) == (spec.host, spec.port):
            return False
        others = sorted(set(serve.status().applications) - {app_name})
        if others:
            raise PortError(
                f"Ray Serve already runs on this cluster at {running.host}:{running.port} for "
                f"{', '.join(others)} and has one address for all applications; "
                f"{spec.host}:{spec.port} cannot be added. Set serve.host and serve.port to that "
                "address, or take the others down: raymodel stop --serving"
            )
        _take_down(app_name, started_serve=True)
    check_port(spec.host, spec.port)
    serve.start(http_options=_http_options(spec), logging_config=LOGGING)
    return True


def _http_options(spec: ServeSpec) -> HTTPOptions:
    # Ours ends first, with a message; this one only cleans up behind a replica that is stuck.
    timeout_s = spec.timeout + spec.replicas.wake_s + _REQUEST_TIMEOUT_SPARE_S
    return HTTPOptions(host=spec.host, port=spec.port, request_timeout_s=timeout_s)


def _running_http() -> HTTPOptions | None:
    """The address of the Ray Serve that runs on this cluster; None without one."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config


def _resources(cluster: ClusterSpec) -> str:
    gpus = f" and {cluster.gpus_per_worker} GPU" if cluster.gpus_per_worker else ""
    return f"{cluster.cpus_per_worker} CPU{gpus}"


def _cause(app_name: str) -> str:
    """What Ray Serve knows about an application that does not start, without its traceback."""
    application = serve.status().applications.get(app_name)
    if application is None:
        return ""
    messages = [application.message, *(d.message for d in application.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines()]
    errors = [line for line in lines if "Error" in line and not line.startswith("File ")]
    return (errors or [line for line in lines if line] or [""])[-1]


def _drain(app_name: str, spec: ServeSpec) -> None:
    """Returns when every gate has nobody left; a gate that does not answer is not waited for."""
    handle = serve.get_app_handle(app_name)
    handle._init(_run_router_in_separate_loop=True)  # there is no event loop here
    deadline_s = time.monotonic() + spec.grace + _SHUTDOWN_TIMEOUT_S
    drained: set[str] = set()
    while len(drained) < num_gates(spec) and time.monotonic() < deadline_s:
        try:
            name, is_done = handle.drain.remote().result(timeout_s=_DRAIN_ANSWER_S)
        except (RayError, RayServeException, TimeoutError):
            return
        drained |= {name} if is_done else set()
        time.sleep(_DRAIN_LOOK_S)


def _take_down(app_name: str, started_serve: bool) -> None:
    serve.delete(app_name)
    if started_serve:
        _end_controller()
        serve.shutdown()


def _end_controller() -> None:
    """Ends Ray Serve's controller before `serve.shutdown`, which would print a false alarm.

    `serve.shutdown` waits for an answer that the controller's end cuts off, and Ray then tells the
    user of a failed task with infinite retries. Here nothing waits for an answer.
    """
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    with suppress(RayActorError):  # on a busy machine its end is faster than its answer
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        ray.get(controller.graceful_shutdown.remote(wait=False))
    deadline_s = time.monotonic() + _SHUTDOWN_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        except ValueError:
            return
        time.sleep(0.1)
