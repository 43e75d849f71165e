"""The requests that are under way: which wait, how long answers take, when to come again."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import NamedTuple, Protocol, TypeVar

from raymodel.serve.refusal import Refusal, going_down, queue_full

_NEWEST_SHARE = 0.2  # of the mean: the last five or ten answers decide it
_MOST_RETRY_S = 600
_LOOK_S = 0.05
_LAST_WORDS_S = 2.0  # for what is ended to say so


T = TypeVar("T")


class Filtered(NamedTuple):
    """Something that a filter found in a text of a request, or of its answer."""

    filter: str
    side: str
    action: str
    kind: str


class Notices(Protocol):
    """What a service tells of a request while it answers it."""

    def answer(self, version: str) -> None:
        """This version of the model answers it."""

    def begin(self) -> None:
        """The model begins with it, or has its first token; more than once says no more."""

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The answer is whole, and had so many tokens."""

    def filter(self, found: Filtered, count: int) -> None:
        """A filter found something so many times."""


class _Nobody:
    def answer(self, version: str) -> None:
        pass

    def begin(self) -> None:
        pass

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        pass

    def filter(self, found: Filtered, count: int) -> None:
        pass


_noticed: ContextVar[Notices | None] = ContextVar("noticed", default=None)


def tell_notices(notices: Notices) -> None:
    """Has what is noticed of this task's request told there."""
    _noticed.set(notices)


def notices() -> Notices:
    """Where it is told what becomes of this task's request."""
    return _noticed.get() or _Nobody()


async def unnoticed(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives. What is noticed of it is nothing of this task's request, about which
    somebody else is asked."""

    async def run() -> T:
        tell_notices(_Nobody())
        return await work()

    return await asyncio.create_task(run())


class Passage:
    """One request on its way through."""

    def __init__(self) -> None:
        self.entered_s = time.monotonic()
        self.begun_s: float | None = None
        """When the model began with it; None while it waits."""
        self.work: asyncio.Future[None] | None = None
        """What answers it."""
        self.refusal: Refusal | None = None
        """Why it was ended."""
        self.tokens: tuple[int, int] | None = None
        """Read and written, once the answer is whole."""
        self.version: str | None = None
        """What answers it; None where there is only one."""
        self.filtered = Counter[Filtered]()
        """What filters found in it, and in its answer, and how often."""

    def end(self, refusal: Refusal) -> None:
        """Ends it before its answer is whole."""
        self.refusal = self.refusal or refusal
        if self.work is not None:
            self.work.cancel()

    def answer(self, version: str) -> None:
        """This version of the model answers it."""
        self.version = version

    def begin(self) -> None:
        """The model begins with it; counts once."""
        self.begun_s = self.begun_s or time.monotonic()

    def count(self, prompt_tokens: int, completion_tokens: int) -> None:
        """The answer is whole."""
        self.tokens = prompt_tokens, completion_tokens

    def filter(self, found: Filtered, count: int) -> None:
        """A filter found something so many times."""
        self.filtered[found] += count


class Flow:
    """Counts requests and measures answers.

    Args:
        slots: requests that the model answers at the same time.
        room: requests that may be under way; more are refused.
    """

    def __init__(self, slots: int, room: int) -> None:
        self._slots, self._room = slots, room
        self._passages: set[Passage] = set()
        self._mean_s: float | None = None
        self.is_draining = False

    @property
    def num_waiting(self) -> int:
        """Those that the model has not begun with."""
        return sum(passage.begun_s is None for passage in self._passages)

    @property
    def num_running(self) -> int:
        """Those that it has."""
        return len(self._passages) - self.num_waiting

    async def drain(self, grace_s: float) -> None:
        """Lets nobody in, ends at once those that wait, and after the grace those that run."""
        self.is_draining = True
        deadline_s = time.monotonic() + grace_s
        while self._passages:
            is_over = time.monotonic() >= deadline_s
            for passage in list(self._passages):
                if is_over or passage.begun_s is None:
                    passage.end(going_down())
            if is_over and time.monotonic() >= deadline_s + _LAST_WORDS_S:
                return
            await asyncio.sleep(_LOOK_S)

    def enter(self) -> Passage:
        """Lets a request in. Raises Refusal (503) when there is no room, or no more."""
        if self.is_draining:
            raise going_down()
        if len(self._passages) >= self._room:
            raise queue_full(self.num_waiting, self.retry_after_s())
        passage = Passage()
        self._passages.add(passage)
        return passage

    def leave(self, passage: Passage, *, is_answered: bool) -> None:
        """A request is done.

        Args:
            is_answered: it ran to its end, so that its time tells something.
        """
        self._passages.discard(passage)
        if is_answered and passage.begun_s is not None:
            took_s = time.monotonic() - passage.begun_s
            mean_s = took_s if self._mean_s is None else self._mean_s
            self._mean_s = mean_s + _NEWEST_SHARE * (took_s - mean_s)

    def retry_after_s(self) -> int:
        """When those that wait now will have been begun with: their rounds through the slots, each
        as long as answers took, or as those under way took so far where that is longer."""
        now_s = time.monotonic()
        ages = [now_s - p.begun_s for p in self._passages if p.begun_s is not None]
        one_s = max(self._mean_s or 0.0, sum(ages) / len(ages) if ages else 0.0)
        rounds = max(1.0, self.num_waiting / self._slots)
        return min(_MOST_RETRY_S, max(1, math.ceil(rounds * one_s)))
