"""The exception raised in a worker, out of what Ray makes of it on its way to the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from raymodel.errors import RaymodelError

# Ray Data adds lines of its own to the message of an exception that one of its tasks raises: how
# often it tried, and which of its settings change that. They are no advice to users of a job file.
_ADVICE = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts \(total backoff .*", re.DOTALL)


def unwrap(error: BaseException) -> BaseException:
    """The worker's own exception, whatever it is."""
    for name in ("_base_exc", "controller_failure", "health_check_failure", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            return unwrap(inner)
    return _without_advice(error) if isinstance(error, RaymodelError) else error


def find_own(error: BaseException | None) -> RaymodelError | None:
    """The first exception of ours in a chain of causes."""
    while error is not None:
        inner = getattr(error, "cause", None)
        # Ray raises a class that inherits from ours and holds the original as its cause.
        if isinstance(error, RaymodelError) and inner is None:
            return _without_advice(error)
        error = inner or error.__cause__
    return None


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises our own exception out of what Ray wraps around it, so that its message comes first."""
    try:
        yield
    except Exception as error:
        own = find_own(error)
        if own is None:
            raise
        raise own from None


def _without_advice(error: RaymodelError) -> RaymodelError:
    if error.args and isinstance(error.args[0], str):
        error.args = (_ADVICE.sub("", error.args[0]), *error.args[1:])
    return error
