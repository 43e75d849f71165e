"""The requests that are under way: which wait and for how long, and whether one more may.

A queue keeps a model busy; beyond that it only makes everyone late. So a request is let in when the
wait that it has before it is short, by what answers took of late, and else is told at once when to
come again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import NamedTuple, Protocol, TypeVar

from raymodel.serve.refusal import Refusal, going_down, queue_full, wait_too_long

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
    """What a service tells of a request while it answers it; `ago_s` is how long since it was so,
    where a notice has waited on its way."""

    def answer(self, version: str, rows: int) -> None:
        """This version of the model answers it, in a replica that answers so many at once."""

    def take_up(self, ago_s: float = 0.0) -> None:
        """The model has a place for it: it waits no more."""

    def begin(self, ago_s: float = 0.0) -> None:
        """The model begins with it, or has its first token; more than once says no more."""

    def count(
        self, prompt_tokens: int, completion_tokens: int, drafted: int = 0, accepted: int = 0, /
    ) -> None:
        """The answer is whole, and had so many tokens; a draft wrote so many ahead of it, and so
        many of these were taken."""

    def filter(self, found: Filtered, count: int) -> None:
        """A filter found something so many times."""


class _Nobody:
    def answer(self, version: str, rows: int) -> None:
        pass

    def take_up(self, ago_s: float = 0.0) -> None:
        pass

    def begin(self, ago_s: float = 0.0) -> None:
        pass

    def count(self, *counts: int) -> None:
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
        self.whole_s: float | None = None
        """When its body was there, from when on it waits for nobody but the model."""
        self.taken_s: float | None = None
        """When the model had a place for it; None while it waits."""
        self.begun_s: float | None = None
        """When the model began with it, or had its first token."""
        self.work: asyncio.Future[None] | None = None
        """What answers it."""
        self.refusal: Refusal | None = None
        """Why it was ended."""
        self.tokens: tuple[int, ...] | None = None
        """Once the answer is whole, as they are counted."""
        self.version: str | None = None
        """What answers it; None where there is only one."""
        self.rows: int | None = None
        """Requests at once of the replica that answers it, where that is another process."""
        self.filtered = Counter[Filtered]()
        """What filters found in it, and in its answer, and how often."""

    def end(self, refusal: Refusal) -> None:
        """Ends it before its answer is whole."""
        self.refusal = self.refusal or refusal
        if self.work is not None:
            self.work.cancel()

    def arrive(self) -> None:
        """Its body is there."""
        self.whole_s = time.monotonic()

    def answer(self, version: str, rows: int) -> None:
        """This version of the model answers it."""
        self.version, self.rows = version, rows

    def take_up(self, ago_s: float = 0.0) -> None:
        """The model has a place for it; counts once."""
        self.taken_s = self.taken_s or time.monotonic() - ago_s

    def begin(self, ago_s: float = 0.0) -> None:
        """The model begins with it; counts once."""
        self.take_up(ago_s)
        self.begun_s = self.begun_s or time.monotonic() - ago_s

    def count(self, *counts: int) -> None:
        """The answer is whole."""
        self.tokens = counts

    def filter(self, found: Filtered, count: int) -> None:
        """A filter found something so many times."""
        self.filtered[found] += count


class Flow:
    """Counts requests and measures answers.

    Args:
        rows: requests that a replica answers at the same time, unless it says otherwise.
        room: requests that may be under way; more are refused.
        replicas: that this flow has to itself, at least.
        longest_wait_s: how long one may have to wait, of the seconds that answers take of late.
    """

    def __init__(
        self,
        rows: int,
        room: int,
        *,
        replicas: float = 1.0,
        longest_wait_s: Callable[[float], float] = lambda answer_s: math.inf,
    ) -> None:
        self._rows, self._room, self._replicas = rows, room, replicas
        self._longest_wait_s = longest_wait_s
        self._passages: set[Passage] = set()
        self._mean_s: float | None = None
        self.is_draining = False

    @property
    def num_waiting(self) -> int:
        """Those that the model has no place for yet."""
        return sum(passage.taken_s is None for passage in self._passages)

    @property
    def num_running(self) -> int:
        """Those that it has one for."""
        return len(self._passages) - self.num_waiting

    @property
    def expected_wait_s(self) -> float:
        """Until one that came now would have a place: as many answers must end before as there are
        requests more than places, and of all places one becomes free again and again in the time of
        an answer, divided by their number."""
        # Of replicas that were added to the least number there is as much to see as runs there.
        places = max(1, int(self._rows * self._replicas), self.num_running)
        ahead = len(self._passages) + 1 - places
        return max(0, ahead) / places * self._answer_s

    async def drain(self, grace_s: float) -> None:
        """Lets nobody in, ends at once those that wait, and after the grace those that run."""
        self.is_draining = True
        deadline_s = time.monotonic() + grace_s
        while self._passages:
            is_over = time.monotonic() >= deadline_s
            for passage in list(self._passages):
                if is_over or passage.taken_s is None:
                    passage.end(going_down())
            if is_over and time.monotonic() >= deadline_s + _LAST_WORDS_S:
                return
            await asyncio.sleep(_LOOK_S)

    def enter(self) -> Passage:
        """Lets a request in. Raises Refusal (503) when there is no room, or no more, and when it
        would have to wait for too long."""
        if self.is_draining:
            raise going_down()
        if len(self._passages) >= self._room:
            raise queue_full(self.num_waiting, self.retry_after_s())
        longest_s = self._longest_wait_s(self._answer_s)
        wait_s = max(self.expected_wait_s, self._seen_wait_s())
        if wait_s > longest_s:
            raise wait_too_long(wait_s, longest_s, self.retry_after_s())
        passage = Passage()
        self._passages.add(passage)
        return passage

    def leave(self, passage: Passage, *, is_answered: bool) -> None:
        """A request is done.

        Args:
            is_answered: it ran to its end, so that its time tells something.
        """
        self._passages.discard(passage)
        self._rows = passage.rows or self._rows
        if is_answered and passage.taken_s is not None:
            took_s = time.monotonic() - passage.taken_s
            mean_s = took_s if self._mean_s is None else self._mean_s
            self._mean_s = mean_s + _NEWEST_SHARE * (took_s - mean_s)

    def retry_after_s(self) -> int:
        """When to come again who is refused now: the wait that is before one, as expected or as it
        was seen."""
        wait_s = max(self.expected_wait_s, self._seen_wait_s())
        return min(_MOST_RETRY_S, max(1, math.ceil(wait_s)))

    @property
    def _answer_s(self) -> float:
        """What answers took of late once they had a place, or what those under way took so far
        where that is longer."""
        now_s = time.monotonic()
        ages = [now_s - p.taken_s for p in self._passages if p.taken_s is not None]
        return max(self._mean_s or 0.0, sum(ages) / len(ages) if ages else 0.0)

    def _seen_wait_s(self) -> float:
        """What the wait is at least, by what is seen where fewer run than there are places, as
        memory has no room for more of their length: the last that got a place waited so long for
        it, and who comes next waits as long already. Either alone may have had another reason."""
        got = [p for p in self._passages if p.taken_s is not None and p.whole_s is not None]
        waiting = [p for p in self._passages if p.taken_s is None and p.whole_s is not None]
        if not (got and waiting):
            return 0.0
        last = max(got, key=lambda passage: passage.taken_s or 0.0)
        first_s = min(passage.whole_s or 0.0 for passage in waiting)
        last_s = (last.taken_s or 0.0) - (last.whole_s or 0.0)
        return max(0.0, min(last_s, time.monotonic() - first_s))
