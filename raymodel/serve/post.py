"""From the engine's thread to an event loop: all that a step makes in one call, and how soon it
goes on.

What costs on the way to a client are events, hardly their texts: each is a message to the gate, one
to Ray Serve's proxy, and a write of that. So where events alone would keep an event loop busy,
those of a moment go out together.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable

# What events may take of the loop's thread before they are joined. Gate and proxy compute about as
# much for each as the loop does, mostly on the cores that the model computes on.
_SHARE = 0.025
# No answer is held for longer: its text still flows for a reader, 15 or 20 times a second.
_LONGEST_S = 0.05
_WINDOW_S = 0.25


class Post:
    """What is told to an event loop from other threads; see `post_here`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # which has this as long as it lives itself
        self._calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._is_called = False
        self._held: list[Callable[[], object]] = []
        self.pace = Pace()

    def put(self, call: Callable[..., object], *given: object) -> None:
        """Has this called in the loop, with all that is put until it comes to it; from any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        loop = self._loop()
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop is closed")
        self._calls.append((call, given))
        # Between both lines the loop may have called it already, and is then woken for nothing.
        if not self._is_called:
            self._is_called = True
            loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._is_called = False  # what comes from here on is found below, or wakes the loop again
        while self._calls:
            call, given = self._calls.popleft()
            call(*given)

    def hold(self, release: Callable[[], object]) -> None:
        """Has this called soon, with the others that are held; at once where the loop has time."""
        hold_s = self.pace.hold_s
        if not hold_s:
            release()
            return
        if not self._held:
            asyncio.get_running_loop().call_later(hold_s, self._release)
        self._held.append(release)

    def _release(self) -> None:
        held, self._held = self._held, []
        for release in held:
            release()


class Pace:
    """How long what comes of an answer is held for more of it, as measured.

    Args:
        clock_s: seconds that pass.
        cpu_s: those that the loop's thread has computed.
    """

    def __init__(
        self,
        clock_s: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock_s, self._cpu_s = clock_s, cpu_s
        self.hold_s = 0.0
        self._begin()

    def _begin(self) -> None:
        self._start_s, self._start_cpu_s = self._clock_s(), self._cpu_s()
        self._num_came = self._num_went = 0
        self._answers: set[Hashable] = set()

    def came(self, answer: Hashable) -> None:
        """Something has come of an answer."""
        took_s = self._clock_s() - self._start_s
        if took_s >= _WINDOW_S:
            self.hold_s = self._find_hold_s(took_s)
            self._begin()
        self._num_came += 1
        self._answers.add(answer)

    def went(self) -> None:
        """An event of an answer goes out."""
        self._num_went += 1

    def _find_hold_s(self, took_s: float) -> float:
        event_s = (self._cpu_s() - self._start_cpu_s) / max(1, self._num_went)
        at_once_share = event_s * self._num_came / took_s
        num_answers = len(self._answers)
        if num_answers < 2 or at_once_share <= _SHARE:
            return 0.0
        return min(_LONGEST_S, num_answers * event_s / _SHARE)


_posts: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Post] = weakref.WeakKeyDictionary()


def post_here() -> Post:
    """The one of the event loop that runs."""
    loop = asyncio.get_running_loop()
    if loop not in _posts:
        _posts[loop] = Post(loop)
    return _posts[loop]
