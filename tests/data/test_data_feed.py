"""Reading ahead in a thread: in order, with the source's errors, and without an end that hangs."""

import threading
import time
from collections.abc import Iterator

import pytest

from raymodel.data import feed
from raymodel.data.feed import Prefetch


def test_items_come_in_order_and_at_most_so_many_ahead() -> None:
    given: list[int] = []

    def source() -> Iterator[int]:
        for number in range(20):
            given.append(number)
            yield number

    with Prefetch(source(), 3) as ahead:
        for number, item in enumerate(ahead):
            assert item == number
            assert len(given) <= number + 1 + 3 + 1  # taken, waiting, and one in the hand
            time.sleep(0.002)
    assert len(given) == 20


def test_an_error_of_the_source_comes_after_what_it_gave() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk on fire")

    with Prefetch(source(), 2) as ahead:
        items = iter(ahead)
        assert next(items) == 1
        with pytest.raises(OSError, match="disk on fire"):
            next(items)


def test_a_source_that_gives_nothing_does_not_keep_its_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "CLOSE_S", 0.2)
    released = threading.Event()

    def source() -> Iterator[int]:
        released.wait(600)
        yield 1

    ahead = Prefetch(source(), 2)
    began = time.monotonic()
    ahead.close()
    assert time.monotonic() - began < 60
    released.set()
