"""What becomes of failed attempts: each is written down, waited out, or ends the run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from raymodel.cluster.ray_errors import unwrap
from raymodel.errors import RaymodelError, TrainingError
from raymodel.observe.records import RecordWriter, read_records
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.state import FOLDER as CHECKPOINTS
from raymodel.train.checkpoint.state import committed_steps
from raymodel.train.fault.hang import find_hang
from raymodel.train.fault.notice import is_asked_to_leave
from raymodel.train.fault.policy import (
    Decision,
    Failure,
    Kind,
    classify,
    decide,
    is_out_of_memory,
    lost_ranks,
    out_of_memory_error,
    proven,
)
from raymodel.train.work import EVENTS_FILE, FAILURES_FILE, TrainWork

T = TypeVar("T")
logger = logging.getLogger(__name__)


class FailureKeeper:
    """Sees every failed attempt: writes it down, ends hopeless ones."""

    def __init__(self, work: TrainWork) -> None:
        self._work = work
        self._seen: Counter[Kind] = Counter()
        self._since = time.time()
        self._last: list[str] = []
        self._in_a_row = 0
        self._before: Failure | None = None
        self._step_of_last = 0
        self._records: RecordWriter | None = None

    def failed(self, errors_by_rank: Mapping[int, Exception]) -> None:
        """Waits before the next attempt, or raises what ends the run.

        Args:
            errors_by_rank: as Ray gives them.
        """
        by_rank = {rank: unwrap(error) for rank, error in errors_by_rank.items()}
        errors = list(by_rank.values())
        run = self._work.run
        attempt = _unless_unreadable(lambda: _last_attempt(run, self._since))
        lost = lost_ranks(by_rank, attempt["workers"] if attempt else 0)
        hang = _unless_unreadable(lambda: find_hang(run, self._since))
        failure = classify(errors, hang, lost)
        if failure.kind == "preemption" and self._is_known(errors):
            return  # Ray tells it again and again until the node is gone
        self._count_in_a_row()
        failure = proven(failure, self._before, in_a_row=self._in_a_row)
        self._before = failure
        self._seen[failure.kind] += 1
        decision = decide(failure, self._seen, self._work.spec.fault, in_a_row=self._in_a_row)
        if _unless_unreadable(lambda: is_asked_to_leave(run)):
            decision = Decision(False, 0.0, "run the same command again to go on")
        self._write(failure, decision, _trace_of(failure, errors_by_rank))
        if not decision.is_retried:
            raise _final_error(failure, decision, self._work)
        time.sleep(decision.wait_s)
        self._since = time.time()

    def _count_in_a_row(self) -> None:
        """A new checkpoint since the last failure is progress: the count begins anew."""
        steps = _unless_unreadable(lambda: committed_steps(self._work.run))
        newest = max(steps or (), default=self._step_of_last)
        self._in_a_row = 1 if newest > self._step_of_last else self._in_a_row + 1
        self._step_of_last = newest

    def _is_known(self, errors: list[BaseException]) -> bool:
        before, self._last = self._last, [str(error) for error in errors]
        return before == self._last

    def _write(self, failure: Failure, decision: Decision, trace: str | None) -> None:
        told = {}
        if decision.is_retried:  # else the command ends with the same words
            told = {"level": "warning", "message": f"{failure.cause}; {decision.words}"}
        try:
            if self._records is None:  # kept open: what a storage refuses goes with the next one
                self._records = RecordWriter(self._work.run / FAILURES_FILE)
            self._records.write(
                {
                    "time_s": round(time.time(), 3),
                    "event": "failure",
                    "kind": failure.kind,
                    "cause": failure.cause,
                    "is_retried": decision.is_retried,
                    "wait_s": decision.wait_s,
                    "traceback": trace,
                    **told,
                }
            )
            self._records.store()
        except OSError as error:
            logger.warning("a failure (%s) is not written down: %s", failure.cause, error)


def _trace_of(failure: Failure, errors_by_rank: Mapping[int, Exception]) -> str | None:
    """Of an error of the code, whose first line says little to who must mend it."""
    if failure.kind != "program":
        return None
    # Ray's wrapper says nothing else.
    return next(str(each) for each in errors_by_rank.values() if unwrap(each) is failure.error)


def _unless_unreadable(ask: Callable[[], T]) -> T | None:
    """None where the storage fails: perhaps the workers did for that, and the run must go on."""
    try:
        return ask()
    except OSError as error:
        logger.warning("what the workers left cannot be read: %s", error)
        return None


def cause_of(error: Exception, work: TrainWork) -> RaymodelError:
    """Ours, out of what Ray raises at the end of a run."""
    errors = list(getattr(error, "worker_failures", {}).values()) or [error]
    failure = classify([unwrap(inner) for inner in errors])
    if isinstance(failure.error, RaymodelError):
        return failure.error
    return _final_error(failure, Decision(False, 0.0, "Ray gave up"), work)


def _final_error(failure: Failure, decision: Decision, work: TrainWork) -> RaymodelError:
    """What the user reads when a run ends by this failure."""
    if is_out_of_memory(failure):
        return out_of_memory_error(failure.error, _last_attempt(work.run))
    if failure.kind == "program":
        return TrainingError(
            f"{work.stage} failed: {failure.cause}; the same input gives the same error, so it is "
            f"not tried again. The traceback is in {work.run / FAILURES_FILE}; mend the data, the "
            "model or the code that it names, and run again: it goes on from the newest checkpoint"
        )
    if failure.kind != "infrastructure" and isinstance(failure.error, RaymodelError):
        return failure.error
    return TrainingError(
        f"{work.stage} failed: {failure.cause}; {decision.words}. The attempts are in "
        f"{work.run / EVENTS_FILE} and {work.run / FAILURES_FILE}, checkpoints in "
        f"{work.run / CHECKPOINTS}; run the same command again to go on from the newest one"
    )


def _last_attempt(run: Location, since: float = 0.0) -> dict[str, Any] | None:
    """The newest `attempt` event; None when no workers got ready since then."""
    events = [event for event in read_records(run / EVENTS_FILE) if event["event"] == "attempt"]
    return events[-1] if events and events[-1]["time_s"] >= since else None
