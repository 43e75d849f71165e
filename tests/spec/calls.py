"""A bound on the work of a check that is the same on every machine, and beside every other test."""

import cProfile
from collections.abc import Iterator
from contextlib import contextmanager

# A second's or two; the largest file that is read takes a third of them.
MOST_CALLS = 2_500_000


@contextmanager
def few_calls() -> Iterator[None]:
    """Fails when the block calls more functions than that, however it ends."""
    profile = cProfile.Profile()
    try:
        with profile:
            yield
    finally:
        calls = sum(entry.callcount for entry in profile.getstats())
        assert calls < MOST_CALLS, f"{calls:,} calls"
