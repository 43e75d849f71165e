"""Notices to leave: SIGTERM, or word from the cluster that this node will be taken away."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class LeaveNotice:
    """Set once by a signal; the loop tells the other workers, and all leave at the same step."""

    def __init__(self) -> None:
        self.given = False

    def watch_sigterm(self) -> None:
        """Takes SIGTERM as a notice. Does nothing outside the main thread, where Python cannot."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.given = True
