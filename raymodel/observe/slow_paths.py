"""Slow paths: work that is done in a slower way than was meant, with the same result.

A new version of a library, or what a machine lacks, must never slow a job down without a word. So
whatever falls back says so here, once in a process. It is then in the log, and is told where people
look: in the answer of a server's `/health`, and in the closing lines of `raymodel run`.

With `RAYMODEL_SLOW_PATHS=refuse` in the environment, as in the tests of this project, a fallback
that the libraries are to blame for is an error instead.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from raymodel.errors import SlowPathError

log = logging.getLogger(__name__)

VARIABLE, REFUSE = "RAYMODEL_SLOW_PATHS", "refuse"


class SlowPath(NamedTuple):
    """One fallback."""

    what: str
    """What is done, in words that follow a stage's name: `answers one request at a time`."""
    why: str
    """What was seen, and what would mend it where that is known."""


_taken: list[SlowPath] = []
_lock = threading.Lock()


def take_slow_path(what: str, why: str, *, inherent: bool = False) -> None:
    """Says that this process now does something in a slower way.

    Args:
        what: is done; see `SlowPath`.
        why: not as it was meant.
        inherent: whether the machine or the architecture lacks something, so that it is no fault
            of a library's version; this is told, and never refused.

    Raises:
        SlowPathError: slow paths are refused here.
    """
    if os.environ.get(VARIABLE) == REFUSE and not inherent:
        raise SlowPathError(
            f"a model {what} ({why}), which is slow, and {VARIABLE} is {REFUSE}; unset it, or "
            "install the versions that pyproject.toml names"
        )
    path = SlowPath(what, why)
    with _lock:
        if path in _taken:
            return
        _taken.append(path)
    log.warning("slow: %s (%s)", what, why)


def slow_paths() -> list[SlowPath]:
    """Those that this process has taken, in order."""
    with _lock:
        return list(_taken)


def forget_slow_paths() -> None:
    """Begins anew, as a process does."""
    with _lock:
        _taken.clear()


def as_content(paths: Iterable[SlowPath]) -> list[dict[str, str]]:
    """As manifests, events and `/health` hold them: each once."""
    return [path._asdict() for path in dict.fromkeys(paths)]


def slow_path_lines(content_by_stage: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The closing lines of a run; none when every stage went its fast way.

    Args:
        content_by_stage: what each stage's manifest says of itself, or a server's `/health`.
    """
    return [
        f"slow: {stage} {path['what']}: {path['why']}"
        for stage, content in content_by_stage.items()
        for path in content.get("slow_paths", ())
    ]


def from_events(events: Sequence[Mapping[str, Any]]) -> list[SlowPath]:
    """Those that the workers of a training run have told of, over all attempts."""
    return [
        SlowPath(event["what"], event["why"])
        for event in events
        if event.get("event") == "slow_path"
    ]
