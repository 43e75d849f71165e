"""Goodput from synthetic events: each second is booked once, and each loss has its cause."""

from typing import Any

import pytest

from raymodel.observe.goodput import Books, Ledger, activity_rows, loss_rows

Event = dict[str, Any]


def attempt(began_at: float, step: int, start_up_s: float, **fields: Any) -> Event:
    return {
        "event": "attempt",
        "workers": 2,
        "step": step,
        "asked_at": 1000.0,
        "began_at": began_at,
        "booked_s": {"start_up": start_up_s},
        **fields,
    }


def booked(step: int, **seconds: float) -> Event:
    return {"event": "books", "step": step, "booked_s": {"start_up": 5.0, **seconds}}


def failure(time_s: float, cause: str = "a worker died") -> Event:
    return {"event": "failure", "time_s": time_s, "cause": cause}


UNBROKEN = [attempt(1010.0, 0, 5.0), booked(10, train=20.0, data_wait=1.0, validation=4.0)]


def check_wall(books: Books, wall_s: float) -> None:
    assert books.total_s == pytest.approx(wall_s)
    assert all(seconds >= 0 for seconds in books.seconds.values())


def test_an_unbroken_run_books_the_wait_for_workers_as_start_up() -> None:
    books = Ledger(UNBROKEN).books()
    check_wall(books, 40.0)  # asked for at 1000, began at 1010, 30 s booked
    assert books.seconds["start_up"] == 15.0
    assert books.goodput == pytest.approx(20 / 40)
    assert books.losses == []


def test_no_attempt_has_no_goodput() -> None:
    assert Ledger().books().goodput is None


@pytest.fixture
def failed() -> list[Event]:
    """Dies 20 s into training, of which the checkpoint of step 6 keeps 12."""
    return [
        attempt(1010.0, 0, 5.0),
        booked(6, train=12.0),
        booked(9, train=18.0),
        booked(9, train=20.0),
        attempt(1050.0, 6, 5.0),
        booked(10, train=8.0),
    ]


def test_a_failure_is_booked_as_lost_work_detection_and_restart(failed: list[Event]) -> None:
    books = Ledger(failed, [failure(1038.0)]).books()
    check_wall(books, 63.0)  # the second attempt ends at 1050 + 5 + 8
    assert books.seconds["train"] == pytest.approx(12 + 8)
    assert books.seconds["lost_work"] == pytest.approx(8.0)
    assert books.seconds["detection"] == pytest.approx(3.0)  # last sign of life at 1035
    assert books.seconds["restart"] == pytest.approx(12.0 + 5.0)  # with the second start-up
    assert books.seconds["start_up"] == pytest.approx(10 + 5.0)
    assert [loss.cause for loss in books.losses] == ["a worker died"]


def test_steps_between_two_books_are_lost_in_proportion(failed: list[Event]) -> None:
    failed[4]["step"] = 8  # two thirds of the way from step 6 to step 9
    books = Ledger(failed, [failure(1038.0)]).books()
    assert books.seconds["lost_work"] == pytest.approx(20.0 - (12 + 6 * 2 / 3))


def test_a_command_that_was_away_is_booked_as_restart(failed: list[Event]) -> None:
    failed[4]["asked_at"] = 1045.0
    (loss,) = Ledger(failed).books().losses
    assert (loss.detection_s, loss.restart_s) == (0.0, pytest.approx(15.0 + 5.0))
    assert loss.cause == "the command ended and was started again"


def test_a_notice_gives_the_cause(failed: list[Event]) -> None:
    failed.insert(4, {"event": "left", "cause": "a worker got SIGTERM"})
    assert Ledger(failed).books().losses[0].cause == "a worker got SIGTERM"


def test_a_resize_gives_the_cause(failed: list[Event]) -> None:
    failed[4]["workers"] = 1
    assert Ledger(failed).books().losses[0].cause == "resized from 2 to 1 workers"


def test_failures_before_the_workers_are_ready_belong_to_one_loss(failed: list[Event]) -> None:
    books = Ledger(failed, [failure(1038.0), failure(1044.0, "no such node")]).books()
    check_wall(books, 63.0)
    assert [loss.cause for loss in books.losses] == ["a worker died; no such node"]


def test_work_lost_twice_is_booked_once() -> None:
    events = [
        attempt(1000.0, 0, 0.0),
        booked(4, start_up=0.0, train=4.0),
        booked(8, start_up=0.0, train=8.0),
        attempt(1010.0, 4, 0.0),
        booked(6, start_up=0.0, train=2.0),
        attempt(1020.0, 0, 0.0),  # the checkpoint of step 4 was torn
        booked(8, start_up=0.0, train=8.0),
    ]
    books = Ledger(events).books()
    check_wall(books, 28.0)
    assert books.seconds["lost_work"] == pytest.approx(8.0 + 2.0)
    assert books.seconds["train"] == pytest.approx(8.0)


def test_a_rewind_takes_later_marks_with_it() -> None:
    events = [
        attempt(1000.0, 0, 0.0),
        booked(4, train=4.0),
        booked(7, train=7.0),
        booked(4, train=4.0, lost_work=3.0),  # back to step 4
        booked(8, train=8.0, lost_work=3.0),
        attempt(1030.0, 6, 0.0),
    ]
    books = Ledger(events).books()
    assert books.seconds["lost_work"] == pytest.approx(3.0 + 2.0)
    check_wall(books, 30.0)


def test_a_run_that_ended_in_a_failure_books_its_detection() -> None:
    books = Ledger(UNBROKEN, [failure(1043.0)]).books()
    check_wall(books, 43.0)
    assert books.seconds["detection"] == pytest.approx(3.0)


def test_clocks_of_two_machines_never_make_negative_time(failed: list[Event]) -> None:
    failed[4]["began_at"] = 1030.0  # before the end of the first attempt
    books = Ledger(failed, [failure(1029.0)]).books()
    assert all(seconds >= 0 for seconds in books.seconds.values())
    assert books.seconds["restart"] == pytest.approx(5.0)


def test_the_tables_name_each_share_and_cause(failed: list[Event]) -> None:
    books = Ledger(failed, [failure(1038.0)]).books()
    shares = {row["where the time went"]: row["share"] for row in activity_rows(books)}
    assert shares["productive steps"] == "31.7%"
    assert "waiting for data" not in shares
    assert loss_rows(books)[0] == {
        "interruption": 1,
        "lost work": "8.0s",
        "detection": "3.0s",
        "restart": "17s",
        "cause": "a worker died",
    }
