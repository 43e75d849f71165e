"""Notices to leave, hangs and Ctrl-C: what is saved before a process goes."""

import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tiny_runs import events, fragments, losses, make_dataset, make_work, records, train_here

from raymodel.errors import PreemptedError
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train import loop
from raymodel.train.checkpoint.state import committed_steps
from raymodel.train.fault import notice
from raymodel.train.fault.hang import EXIT_CODE, Watchdog, find_hang
from raymodel.train.fault.interrupt import run_interruptibly
from raymodel.train.fault.notice import LeaveNotice, ask_to_leave, forget_to_leave
from raymodel.train.session import TorchrunSession
from raymodel.train.work import TrainWork
from raymodel.train.worker import run_worker


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


def before_each_step(action) -> None:
    """Calls `action(step)` on this rank before each step."""
    check = loop._check_rows

    def check_rows(t, rows) -> None:
        check(t, rows)
        action(rows.step)

    loop._check_rows = check_rows


# ---- notices -------------------------------------------------------------------------------------


def leave_on(rank: int, world_size: int, work: TrainWork, how: str) -> str:
    """A notice comes before step 6 (counted from 1); returns what the worker raised."""
    session, is_going = TorchrunSession(), False
    session.leave_by = lambda: time.time() + 30 if is_going else None
    notice._ASK_EVERY_S, notice._LOOK_LOCAL_S = 0.0, 0.02

    def act(step: int) -> None:
        nonlocal is_going
        if step != 5:
            return
        if how == "sigterm" and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if how == "drain":
            is_going = True
        if how == "command" and rank == 0:
            ask_to_leave(work.run)
            [looking] = [each for each in threading.enumerate() if each.name == "leave-notice"]
            looking.join()  # it ends when it has seen it

    before_each_step(act)
    try:
        run_worker(work, session)
    except PreemptedError as error:
        return str(error)
    return "went on"


@pytest.fixture(scope="module")
def whole(dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainWork:
    """An unbroken run."""
    work = make_work(dataset, tmp_path_factory.mktemp("whole"))
    run_distributed(train_here, 2, work, init=False)
    return work


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("sigterm", "a worker got SIGTERM"),
        ("drain", "the cluster takes a node away in 30 s"),
        ("command", "the command was interrupted"),
    ],
)
def test_all_workers_save_the_same_step_leave_and_go_on_from_it(
    dataset: Artifact, whole: TrainWork, tmp_path: Path, how: str, cause: str
) -> None:
    work = make_work(dataset, tmp_path / "run")
    raised = run_distributed(leave_on, 2, work, how, init=False)
    assert raised == [f"{cause}; step 6 is saved"] * 2
    assert committed_steps(work.run) == [4, 6]
    forget_to_leave(work.run)
    run_distributed(train_here, 2, work, init=False)
    assert losses(work) == losses(whole)
    assert fragments(work, 12) == fragments(whole, 12)
    digests = [records(each, "metrics")[-1]["data_digest"] for each in (work, whole)]
    assert digests[0] == digests[1]
    assert [event["step"] for event in events(work, "attempt")] == [0, 6]


def test_the_cluster_is_asked_now_and_then_by_one_rank_only(monkeypatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    first, other = (LeaveNotice(lambda: None, asks=asks) for asks in (True, False))
    assert not first.is_due()
    now_s += notice._ASK_EVERY_S
    assert (first.is_due(), first.is_due(), other.is_due()) == (True, False, False)


# ---- hangs ---------------------------------------------------------------------------------------


def hang_at_step(rank: int, world_size: int, work: TrainWork) -> None:
    """The limit holds from then on: on a busy machine the steps before may take as long."""
    limit, is_there = Watchdog.limit_s, False
    Watchdog.limit_s = property(lambda dog: limit.fget(dog) if is_there else math.inf)

    def sleep(step: int) -> None:
        nonlocal is_there
        is_there = step == 5
        if rank == 1 and is_there:
            time.sleep(600)

    before_each_step(sleep)
    train_here(rank, world_size, work)


def test_a_hang_ends_the_process_and_leaves_its_stack_traces(
    dataset: Artifact, whole: TrainWork, tmp_path: Path
) -> None:
    work = make_work(dataset, tmp_path / "run", fault={"hang_after": "1s"})
    started = time.time()
    with pytest.raises(RankError, match=f"exit code {EXIT_CODE}"):
        run_distributed(hang_at_step, 2, work, init=False)
    text = find_hang(work.run, started)
    assert text is not None
    assert "of 2 workers" in text  # the one that hangs, and the one that waits for it
    assert "after 5" in text
    stacks = [(work.run / "stacks" / e.name).read_text() for e in (work.run / "stacks").list()]
    assert any("in sleep" in stack for stack in stacks)
    assert find_hang(work.run, time.time() + 60) is None
    run_distributed(train_here, 2, make_work(dataset, tmp_path / "run"), init=False)
    assert fragments(work, 12) == fragments(whole, 12)


def test_slow_steps_raise_the_limit(tmp_path: Path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watchdog = Watchdog(Location.parse(str(tmp_path)), 0, hang_after_s=60.0)
    assert watchdog.limit_s == 60.0
    for step in range(1, 6):
        now += 10.0
        watchdog.step(step)
    assert watchdog.limit_s == 200.0


# ---- Ctrl-C --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_the_work_to_end_and_then_interrupts(number: int) -> None:
    asked, ended = threading.Event(), threading.Event()
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def work() -> None:
        os.kill(os.getpid(), number)
        assert asked.wait(60)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work, asked.set)
    assert ended.is_set()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_second_signal_does_not_wait() -> None:
    forever = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        forever.wait(600)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(work, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert time.monotonic() - started < 60
    forever.set()


def test_an_error_of_the_work_is_raised() -> None:
    def work() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_interruptibly(work, lambda: None)
