"""Trying again: told, with back-off, a few times, and only where it can help."""

import logging

import pytest

from raymodel.errors import StorageUnavailableError
from raymodel.storage import retry
from raymodel.storage.retry import one_try, with_retries


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, which take no time here."""
    slept: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)
    return slept


class Storage:
    """Fails some times, then answers."""

    def __init__(self, failures: int, message: str = "503 slow down\nand more") -> None:
        self.failures, self.message, self.calls = failures, message, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError(self.message)
        return "content"


def test_an_answer_that_comes_late_is_the_answer(waits: list[float]) -> None:
    told: list[tuple[str, float]] = []
    answer = with_retries(Storage(3), "reading x", lambda e, wait_s: told.append((str(e), wait_s)))
    assert answer == "content"
    assert waits == [1.0, 2.0, 4.0]
    assert [wait_s for _, wait_s in told] == waits


def test_no_retry_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        with_retries(Storage(1), "reading x")
    assert caplog.messages == ["reading x failed, again in 1 s: 503 slow down"]


def test_a_storage_that_never_answers_is_one_clear_error(waits: list[float]) -> None:
    storage = Storage(10**6)
    with pytest.raises(StorageUnavailableError) as caught:
        with_retries(storage, "reading x")
    assert str(caught.value) == "reading x failed 6 times, at last with: 503 slow down"
    assert storage.calls == 6
    assert sum(waits) == 31.0


def test_retries_within_retries_do_not_multiply() -> None:
    storage = Storage(10**6)
    with pytest.raises(StorageUnavailableError, match="outer failed 6 times"):
        with_retries(lambda: with_retries(storage, "inner"), "outer")
    assert storage.calls == 6


def test_of_retries_within_retries_the_outer_ones_are_told(waits: list[float]) -> None:
    told: list[float] = []
    storage = Storage(2)
    with_retries(lambda: with_retries(storage, "inner"), "outer", lambda _, s: told.append(s))
    assert told == waits == [1.0, 2.0]


def test_one_try_holds_for_its_block_alone(waits: list[float]) -> None:
    storage = Storage(2)
    with pytest.raises(OSError, match="slow down"), one_try():
        with_retries(storage, "reading x")
    assert (storage.calls, waits) == (1, [])
    assert with_retries(storage, "reading x") == "content"


def test_a_refusal_is_not_asked_again(waits: list[float]) -> None:
    storage = Storage(10**6, "AWS Error ACCESS_DENIED during HeadObject operation")
    with pytest.raises(OSError, match="ACCESS_DENIED") as caught:
        with_retries(storage, "reading x")
    assert not isinstance(caught.value, StorageUnavailableError)
    assert (storage.calls, waits) == (1, [])
