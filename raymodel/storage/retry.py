"""Trying again where a storage failed for a moment: with back-off, and never silently."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from raymodel.errors import StorageUnavailableError

T = TypeVar("T")
logger = logging.getLogger(__name__)

TRIES = 6
FIRST_WAIT_S = 1.0
"""Doubled after each try. Half a minute in all, beside what the client of an object store waits by
itself: longer than most stores are out of order, shorter than starting the workers again."""

# What object stores say where asking again cannot help.
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET"
)

OnRetry = Callable[[OSError, float], None]
_thread = threading.local()


@contextmanager
def one_try() -> Iterator[None]:
    """Within it this thread tries nothing again: for what is not worth waiting for, or is done
    again later anyway."""
    before = _is_one_try()
    _thread.is_one_try = True
    try:
        yield
    finally:
        _thread.is_one_try = before


def _is_one_try() -> bool:
    return getattr(_thread, "is_one_try", False)


def with_retries(action: Callable[[], T], what: str, on_retry: OnRetry | None = None) -> T:
    """Calls `action` until it raises no OSError; it must be safe to do again.

    Of calls within each other the outer one tries again, and tells of it.

    Args:
        what: subject of the error's message, such as `reading s3://bucket/key`.
        on_retry: told of each failure and of the seconds until the next try; logs when None.

    Raises:
        StorageUnavailableError: it failed at every try. A caller's own retries let it pass.
        OSError: the store refuses, so that trying again cannot help.
    """
    if _is_one_try():
        return action()
    wait_s = FIRST_WAIT_S
    for left in reversed(range(TRIES)):
        try:
            with one_try():
                return action()
        except StorageUnavailableError:
            raise
        except OSError as error:
            if _REFUSED.search(str(error)):
                raise
            if left == 0:
                raise StorageUnavailableError(
                    f"{what} failed {TRIES} times, at last with: {first_line(error)}"
                ) from error
            if on_retry is not None:
                on_retry(error, wait_s)
            else:
                logger.warning("%s failed, again in %g s: %s", what, wait_s, first_line(error))
        time.sleep(wait_s)
        wait_s *= 2
    raise AssertionError("the last try returns or raises")


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return str(error).partition("\n")[0] or type(error).__name__
