"""An S3 server on this machine, which can be made to misbehave."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

from raymodel.storage.uri import Location


@dataclass(kw_only=True)
class Fault:
    """What goes wrong at some requests."""

    does: Literal["refuse", "wait", "reset", "cut"]
    """`refuse` answers `status`; `wait` takes `wait_s` and then answers well; `reset` breaks the
    connection off without an answer, `cut` in the middle of a good one."""
    where: str = ""
    """A regular expression that is searched in `METHOD /bucket/key?query`; all requests by default.
    """
    after: int = 0
    """This many matching requests are let through first."""
    every: int = 1
    """Of those that come then each so-manieth is hit, the first among them."""
    times: float = float("inf")
    """Requests it hits, and no more."""
    for_s: float = float("inf")
    """Seconds that it lasts, from the first hit on."""
    status: int = 503
    wait_s: float = 1.0
    hits: int = 0
    """Requests that it hit so far."""
    _passed: int = 0
    _first_hit_at: float | None = None

    def hits_now(self, request: str) -> bool:
        """Whether it hits this request, which is then counted."""
        if not re.search(self.where, request):
            return False
        self._passed += 1
        if self._passed <= self.after or (self._passed - self.after - 1) % self.every:
            return False
        now = time.monotonic()
        began_at = self._first_hit_at if self._first_hit_at is not None else now
        if self.hits >= self.times or now - began_at > self.for_s:
            return False
        self._first_hit_at, self.hits = began_at, self.hits + 1
        return True


@dataclass
class Faults:
    """The faults of a server. A test adds and removes them while the server runs."""

    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """The server works again."""
        with self._lock:
            self._faults.clear()

    def find(self, request: str) -> Fault | None:
        """The fault that hits a request, the first that was added."""
        with self._lock:
            return next((fault for fault in self._faults if fault.hits_now(request)), None)


@contextmanager
def s3_bucket(faults: Faults | None = None) -> Iterator[Location]:
    """An empty bucket of a moto server, reached as users reach theirs: by the environment.

    Args:
        faults: what goes wrong; nothing when None.
    """
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = _faulty(DomainDispatcherApplication(create_backend_app), faults or Faults())
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_quiet_handler())
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with mock.patch.dict(os.environ, environment):
            boto3.client("s3").create_bucket(Bucket="runs")
            yield Location.parse("s3://runs/team")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def aws_environment() -> dict[str, str]:
    """What another process needs in its environment to reach the bucket."""
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


_Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Any]


def _faulty(app: _Wsgi, faults: Faults) -> _Wsgi:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        query = environ.get("QUERY_STRING")
        path = environ["PATH_INFO"] + (f"?{query}" if query else "")
        fault = faults.find(f"{environ['REQUEST_METHOD']} {path}")
        if fault is None:
            return app(environ, start_response)
        if fault.does == "wait":
            time.sleep(fault.wait_s)
            return app(environ, start_response)
        if fault.does == "cut":
            return _half(app(environ, start_response), environ["werkzeug.socket"])
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fault.does == "reset":
            _reset(environ["werkzeug.socket"])
        return _refuse(fault.status, start_response)

    return answer


def _refuse(status: int, start_response: Callable[..., Any]) -> list[bytes]:
    code = "SlowDown" if status == 503 else "InternalError"
    start_response(f"{status} {code}", [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>as the test asked</Message></Error>".encode()]


def _half(answer: Iterable[bytes], connection: socket.socket) -> Iterator[bytes]:
    body = b"".join(answer)
    yield body[: len(body) // 2]
    _reset(connection)


def _reset(connection: socket.socket) -> None:
    """The peer sees a reset, not an end: nothing lingers, so closing drops what is unsent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())  # its own `close` waits for the files that the server made of it
    raise ConnectionResetError("as the test asked")


def _quiet_handler() -> Any:
    from werkzeug.serving import WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: object) -> None:
            """The tests print nothing of the requests."""

    return Quiet
