"""Notices to leave: a signal, word from the cluster that a node goes, or the command's own wish.

A notice reaches one worker; the loop's all-reduce carries it to the others, so that all save the
same checkpoint and leave at the same step.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from raymodel.storage.uri import Location

LEAVE_FILE = "leave.json"
_ASK_EVERY_S = 3.0  # asking the cluster is a barrier of some milliseconds
_LOOK_LOCAL_S, _LOOK_BUCKET_S = 0.5, 5.0

# Set by the signal handler. A module's variable, since only a process's main thread can install a
# handler, and under Ray that is not the thread which trains.
_sigterm = threading.Event()


def watch_sigterm() -> None:
    """Takes SIGTERM as a notice. Only the main thread of the worker's process can do it."""
    _sigterm.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _sigterm.set()


def ask_to_leave(run: Location) -> None:
    """Tells the workers of a run to save a checkpoint and leave."""
    (run / LEAVE_FILE).write_json({"time_s": time.time()})


def is_asked_to_leave(run: Location) -> bool:
    return (run / LEAVE_FILE).exists()


def forget_to_leave(run: Location) -> None:
    """Before a start: what an earlier command asked for is over."""
    (run / LEAVE_FILE).delete_file()


class LeaveNotice:
    """One worker's view of whether it must leave, and why."""

    def __init__(self, ask: Callable[[], float | None], asks: bool) -> None:
        """Args:
        ask: `Session.leave_by`.
        asks: whether this worker says when all ask (rank 0 does).
        """
        self._ask, self._asks = ask, asks
        self._asked_at = time.monotonic()
        self._reason = ""
        self._closed = threading.Event()

    @property
    def given(self) -> bool:
        return bool(self.reason)

    @property
    def reason(self) -> str:
        """Why this worker must leave; empty when it need not, or when only another one must."""
        if not self._reason and _sigterm.is_set():
            self._reason = "a worker got SIGTERM"
        return self._reason

    def is_due(self) -> bool:
        """Whether it is time that all workers ask the cluster. True on one rank only."""
        if not self._asks or time.monotonic() - self._asked_at < _ASK_EVERY_S:
            return False
        self._asked_at = time.monotonic()
        return True

    def ask(self) -> bool:
        """Asks the cluster whether a node goes. All workers call this at the same step."""
        leave_by = self._ask()
        if leave_by is None:
            return False
        in_s = max(0.0, leave_by - time.time())
        self._reason = f"the cluster takes a node away in {in_s:.0f} s"
        return True

    def watch_file(self, run: Location) -> None:
        """Looks now and then, in a thread, whether the command asks to leave."""

        def look() -> None:
            while not self._closed.wait(_LOOK_LOCAL_S if run.is_local else _LOOK_BUCKET_S):
                try:
                    if is_asked_to_leave(run):
                        self._reason = "the command was interrupted"
                        return
                except OSError:  # a hiccup of the storage; it is asked again
                    continue

        threading.Thread(target=look, name="leave-notice", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
