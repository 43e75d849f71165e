"""A note beside a stage while it waits, so that `raymodel status` tells waiting from running."""

from __future__ import annotations

import logging
import time
from typing import Any

from raymodel.errors import RaymodelError
from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location

FILE = "waiting.json"
# As the story: what takes less is no wait. Then often enough to be a sign of life in a bucket.
BEFORE_NOTING_S = 5.0
BETWEEN_NOTING_S = 30.0

logger = logging.getLogger(__name__)


class WaitingNote:
    """Says of one execution of a stage what it waits for. A storage that fails costs the note."""

    def __init__(self, execution: Location) -> None:
        self._file = execution / FILE
        self._since_s = time.time()
        self._due_s = self._since_s + BEFORE_NOTING_S
        self._is_written = False

    def tell(self, words: str) -> None:
        """What is waited for now; may be told as often as it is looked at."""
        now_s = time.time()
        if now_s < self._due_s:
            return
        self._due_s, self._is_written = now_s + BETWEEN_NOTING_S, True
        try:
            with one_try():
                self._file.write_json({"for": words, "since_s": self._since_s, "time_s": now_s})
        except (OSError, RaymodelError) as error:
            logger.warning("what is waited for is not noted: %s", error)

    def clear(self) -> None:
        """The wait is over."""
        if not self._is_written:
            return
        try:
            self._file.delete_file()
        except (OSError, RaymodelError) as error:
            logger.warning("the note of a wait is left: %s", error)


def find_waiting(execution: Location) -> dict[str, Any] | None:
    """The note of an execution; None without one. Whoever wrote it may have ended since."""
    file = execution / FILE
    return dict(file.read_json()) if file.exists() else None
