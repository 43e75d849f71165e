"""The model that a replica answers with, which another may take the place of under load."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import Message

from raymodel.heap import give_back_freed_memory
from raymodel.serve.bodies import replay
from raymodel.serve.canary import Outcome, Outcomes, is_worse
from raymodel.serve.flow import Filtered, tell_notices
from raymodel.serve.follow import LOOK_S, Refused, Told, Version
from raymodel.serve.spec import CanarySpec

if TYPE_CHECKING:
    from raymodel.serve.service import Service

log = logging.getLogger(__name__)

ANSWERS, TAKEN, BEGUN = "raymodel.answers", "raymodel.taken", "raymodel.begun"
COUNTED, FILTERED = "raymodel.counted", "raymodel.filtered"
"""Messages among those of a response that are notices."""
_DRAIN_LOOK_S = 0.05
_SOON_S = 0.05  # in which most requests that have a place have their first token


@dataclass(eq=False)
class _Loaded:
    version: Version
    service: Service
    app: Any
    num_running: int = 0
    """Requests that it answers."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    """Of those that it has answered."""


class Current:
    """One model at a time for new requests; those that came before end with what they began with.

    Args:
        load: makes the service of a model; raises what `load_service` does.
        first: which to begin with.
    """

    def __init__(self, load: Callable[[Version], Service], first: Version) -> None:
        self._load_service = load
        self._lock = threading.Lock()  # the event loop takes requests, a thread puts models
        self._loaded = self._load(first)
        self._trial: _Loaded | None = None
        self._share, self._num_shared = 0.0, 0

    @property
    def version(self) -> Version:
        """What answers new requests."""
        return self._loaded.version

    @property
    def service(self) -> Service:
        """Of that."""
        return self._loaded.service

    def health(self) -> dict[str, Any]:
        """What `/health` tells of it."""
        return self.service.health() | {"version": self.version.name}

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
        """The messages of the response, those that are there at once together; first a notice of
        the version that answers, which says too that the request arrived."""
        loaded, outcome = self._take(), Outcome(BEGUN, COUNTED)
        try:
            yield [_answers(loaded.version.name, loaded.service.num_rows)]
            async for messages in run_app(loaded.app, scope, body):
                outcome.look(messages)
                if messages:
                    yield messages
            outcome.add_to(loaded.outcomes)
        finally:
            with self._lock:
                loaded.num_running -= 1

    def _take(self) -> _Loaded:
        with self._lock:
            loaded = self._loaded
            if self._trial is not None:
                self._num_shared += 1
                if int(self._num_shared * self._share) > int((self._num_shared - 1) * self._share):
                    loaded = self._trial
            loaded.num_running += 1
            return loaded

    def replace(self, version: Version, canary: CanarySpec | None = None) -> None:
        """Puts another model in the place of this one; returns when the old one is gone.

        Args:
            canary: what the new one has to show before.

        Raises:
            Exception: the new one does not load, whatever the reason; the old one stays.
            CanaryError: it fails requests.
        """
        new = self._load(version)
        if canary is not None:
            self._try(new, canary)
        with self._lock:
            old, self._loaded = self._loaded, new
            self._trial = None
        _retire(old)

    def _try(self, new: _Loaded, canary: CanarySpec) -> None:
        """Gives it a share of the requests; raises CanaryError when it fails them."""
        old, before = self._loaded, replace(self._loaded.outcomes)
        deadline_s = time.monotonic() + canary.within
        with self._lock:
            self._share, self._num_shared, self._trial = canary.share, 0, new
        while new.outcomes.num_answered < canary.requests and time.monotonic() < deadline_s:
            if is_worse(new.outcomes, old.outcomes.since(before)):
                break
            time.sleep(_DRAIN_LOOK_S)
        if not is_worse(new.outcomes, old.outcomes.since(before)):
            return
        with self._lock:
            self._trial = None
        failed, was = new.outcomes, old.outcomes.since(before)
        _retire(new)
        raise CanaryError(
            f"of {failed.num_answered} answers it failed {failed.num_failed}, and the model before "
            f"it {was.num_failed} of {was.num_answered} in the same time"
        )

    def close(self) -> None:
        """Ends its threads."""
        for loaded in (self._loaded, self._trial):
            if loaded is not None:
                loaded.service.close()

    def _load(self, version: Version) -> _Loaded:
        from raymodel.serve.app import build_inner

        service = self._load_service(version)
        return _Loaded(version, service, build_inner(service))


class CanaryError(Exception):
    """A new model failed requests, more than the one before it."""


def _retire(loaded: _Loaded) -> None:
    """Closes what is given no more requests, once those that it has are done."""
    while loaded.num_running:  # they end by themselves: each has its time limit
        time.sleep(_DRAIN_LOOK_S)
    loaded.service.close()
    del loaded.service, loaded.app
    gc.collect()
    give_back_freed_memory()


class AskWatcher(Protocol):
    """The watcher, as a replica asks it."""

    def tell(self, has: Version, *, is_loading: bool) -> Told | None:
        """What to do; None when it does not answer."""

    def note(self, version: Version, error: str | None) -> None:
        """What came of it."""


class Follower:
    """Asks the watcher again and again, in a thread, and does what it says in another."""

    def __init__(
        self,
        current: Current,
        watcher: AskWatcher,
        canary: CanarySpec | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._current, self._watcher = current, watcher
        self._canary, self._look_s = canary, look_s
        self._loading: Version | None = None
        self._refused: Refused | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._follow, name="follower", daemon=True).start()

    def state(self) -> dict[str, Any]:
        """What `/health` tells: what is loaded now, and what was promoted and is not served."""
        loading, refused = self._loading, self._refused
        return {
            "loading": None if loading is None else loading.name,
            "refused": None if refused is None else refused._asdict(),
        }

    def stop(self) -> None:
        """Ends the thread; a model that is being loaded is not waited for."""
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.wait(self._look_s):
            told = self._watcher.tell(self._current.version, is_loading=self._loading is not None)
            if told is None:
                continue
            self._refused = told.refused
            if told.load is not None:
                self._loading = told.load
                # What others have shown is not shown again.
                canary = self._canary if told.is_first else None
                threading.Thread(target=self._load, args=[told.load, canary], daemon=True).start()

    def _load(self, version: Version, canary: CanarySpec | None) -> None:
        error = None
        try:
            self._current.replace(version, canary)
        except Exception as failure:  # whatever it is, the old model goes on
            log.exception("%s does not load", version.name)
            error = f"{type(failure).__name__}: {failure}"
        self._watcher.note(version, error)
        self._loading = None


def _answers(version: str, rows: int) -> Message:
    return {"type": ANSWERS, "version": version, "rows": rows}


class _Told:
    """Notices as messages among those of the response."""

    def __init__(self, outbox: _Outbox) -> None:
        self._put, self._put_soon = outbox.put, outbox.put_soon
        self._has_begun = False

    def answer(self, version: str, rows: int) -> None:
        self._put(_answers(version, rows))

    def take_up(self, ago_s: float = 0.0) -> None:
        self._put_soon({"type": TAKEN})

    def begin(self, ago_s: float = 0.0) -> None:
        if not self._has_begun:  # it is told at every token
            self._has_begun = True
            self._put_soon({"type": BEGUN})

    def count(self, *counts: int) -> None:
        self._put({"type": COUNTED, "tokens": counts})

    def filter(self, found: Filtered, count: int) -> None:
        self._put({"type": FILTERED, "found": tuple(found), "count": count})


class _Outbox:
    """Messages that go out, between an application and who passes them on.

    At most one piece of a body waits here: an application that is ahead waits too, and puts what
    comes meanwhile into its next piece.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._soon: list[tuple[Message, float]] = []
        """What may wait for others, with its time."""
        self._is_over = False
        self._came, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_room.set()

    def put(self, message: Message) -> None:
        """At once, with all that is here."""
        self._messages.append(message)
        self._came.set()

    def put_soon(self, message: Message) -> None:
        """With what is put next, or soon without; says how long ago that was."""
        self._soon.append((message, time.monotonic()))
        asyncio.get_running_loop().call_later(_SOON_S, self._came.set)

    async def send(self, message: Message) -> None:
        """As an application sends."""
        # An end without a body goes along with what is before it.
        if message["type"] == "http.response.body" and message.get("body"):
            await self._has_room.wait()
            self._has_room.clear()
        self.put(message)

    def close(self) -> None:
        """No more comes."""
        self._is_over = True
        self._came.set()

    async def take(self) -> list[Message]:
        """All that are there, at least one; none once it is over."""
        while not self._is_over and not (self._came.is_set() and (self._messages or self._soon)):
            self._came.clear()
            await self._came.wait()
        self._came.clear()
        now_s = time.monotonic()
        notices = ({**message, "ago_s": now_s - since_s} for message, since_s in self._soon)
        taken: list[Message] = [*notices, *self._messages]
        self._messages, self._soon = [], []
        self._has_room.set()
        return taken


async def run_app(app: Any, scope: dict[str, Any], body: bytes) -> AsyncIterator[list[Message]]:
    """What an ASGI application sends; first nothing, which says that the request arrived."""
    outbox = _Outbox()

    async def receive() -> Message:
        await asyncio.Event().wait()  # who leaves ends this generator
        raise AssertionError

    # From this version of ASGI on a response need not listen for who leaves, and does not.
    spoken = scope | {"asgi": scope.get("asgi", {}) | {"spec_version": "2.4"}}

    async def run() -> None:
        tell_notices(_Told(outbox))
        try:
            await app(spoken, replay(body, receive), outbox.send)
        except Exception:
            log.exception("a request failed")  # the application has answered it
        finally:
            outbox.close()

    yield []
    task = asyncio.ensure_future(run())
    try:
        while messages := await outbox.take():
            yield messages
    finally:
        task.cancel()
