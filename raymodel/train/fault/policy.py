"""What a failure is, and what is done about it. Pure: a policy decides, `run.py` acts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raymodel.errors import (
    HangError,
    LastingError,
    OutOfMemoryError,
    PreemptedError,
    RaymodelError,
    StorageUnavailableError,
    UserError,
)
from raymodel.model.counted import Shape, shape_from_dict
from raymodel.observe.text import gib_text
from raymodel.train.forecast.fit import Room, changes_text, list_savings
from raymodel.train.forecast.memory import Setup, plan_memory
from raymodel.train.spec import FaultSpec

Kind = Literal["user", "program", "infrastructure", "preemption"]
"""`user`: the job, the data or the model must change. `program`: an error of the code, ours or a
library's, which the same input gives again. Neither is tried again. `infrastructure`: a process, a
node, a connection or a storage failed. `preemption`: a node was taken away with notice."""

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0


@dataclass(frozen=True)
class Failure:
    """The cause of an attempt's end."""

    kind: Kind
    cause: str
    error: BaseException


def classify(
    errors: list[BaseException], hang: str | None = None, lost: Sequence[int] = ()
) -> Failure:
    """Finds the cause among the errors of all workers.

    When one worker fails, the others fail with it (a broken collective), so an error of the user's
    kind on any worker decides.

    Args:
        errors: one of each failed worker, out of Ray's wrappers.
        hang: what the stack traces of workers that ended themselves say, if there are any.
        lost: from `lost_ranks`.
    """
    assert errors, "a failure has at least one error"
    for error in errors:
        if isinstance(error, (UserError, LastingError)):
            return Failure("user", str(error), error)
    for error in errors:
        if _is_out_of_memory(error):
            return Failure("user", _first_line(error), error)
    if hang is not None:
        return Failure("infrastructure", hang, HangError(hang))
    for error in errors:  # before the broken connections of those that it left alone
        if isinstance(error, StorageUnavailableError):
            return Failure("infrastructure", _first_line(error), error)
    for error in errors:
        if isinstance(error, PreemptedError):
            return Failure("preemption", str(error), error)
    for error in errors:
        if getattr(error, "preempted", False):  # of Ray's actor errors: its node was drained
            return Failure("preemption", "a node was taken away", error)
    for error in errors:  # the others were cut off when that one ended
        if is_deterministic(error):
            return Failure("program", _cause_text(error), error)
    broken = [error for error in errors if _is_dead(error) or _BROKEN_WORDS.search(str(error))]
    if broken:
        which = f"worker {', '.join(map(str, lost))}" if lost else "a worker"
        cause = f"{which} died or was cut off from the others"
        return Failure("infrastructure", cause, broken[0])
    return Failure("infrastructure", _cause_text(errors[0]), errors[0])


_DETERMINISTIC = (
    ValueError,  # with UnicodeError and json's
    TypeError,
    LookupError,  # KeyError, IndexError
    AttributeError,
    NameError,
    ImportError,
    AssertionError,
    ArithmeticError,  # ZeroDivisionError, OverflowError
    SyntaxError,
    NotImplementedError,  # this and the next are RuntimeErrors
    RecursionError,
)


def is_deterministic(error: BaseException) -> bool:
    """Whether the same input gives this error again.

    So do the types that Python and libraries raise for a wrong value. What a device, a connection,
    a collective or a storage raises is OSError, with ConnectionError and TimeoutError, or a plain
    RuntimeError, which torch raises for either kind, so that it counts as theirs the first time
    (`proven`). Ray's own errors speak of processes and nodes.
    """
    if isinstance(error, RaymodelError | OSError) or type(error).__module__.startswith("ray."):
        return False
    return isinstance(error, _DETERMINISTIC)


def proven(failure: Failure, before: Failure | None, *, in_a_row: int) -> Failure:
    """The failure at hand, now that it is known which one came before it.

    A plain RuntimeError, such as torch's of shapes that do not fit, which the next attempt meets
    again in the same words and without a checkpoint in between, is one that the same input gives.

    Args:
        in_a_row: failures since the run last got on, this one included.
    """
    words = str(failure.error)
    may_be_the_code = (
        type(failure.error) is RuntimeError
        and not _BROKEN_WORDS.search(words)
        and not _DEVICE_WORDS.search(words)
    )
    is_again = before is not None and (before.kind, before.cause) == (failure.kind, failure.cause)
    if failure.kind == "infrastructure" and may_be_the_code and is_again and in_a_row > 1:
        return Failure("program", failure.cause, failure.error)
    return failure


def lost_ranks(errors: Mapping[int, BaseException], workers: int) -> list[int]:
    """The ranks that died, by their errors and by their silence.

    When a worker dies, the broken connections of the others may be noticed before its death.

    Args:
        errors: of the ranks that have one.
        workers: how many there were.
    """
    dead = [rank for rank in errors if _is_dead(errors[rank])]
    return sorted(dead) or [rank for rank in range(workers) if rank not in errors]


@dataclass(frozen=True)
class Decision:
    """What follows a failure."""

    is_retried: bool
    wait_s: float
    words: str
    """For the story."""


def decide(
    failure: Failure, seen: Mapping[Kind, int], budget: FaultSpec, *, in_a_row: int = 1
) -> Decision:
    """Whether to try again.

    Args:
        failure: the one at hand.
        seen: failures of each kind so far, this one included.
        budget: how many of each kind the run survives.
        in_a_row: failures since the run last got on, this one included. Only these make the wait
            longer: waiting helps against a cause that persists.
    """
    if failure.kind in ("user", "program"):
        return Decision(False, 0.0, "trying again cannot help")
    allowed = budget.retries if failure.kind == "infrastructure" else budget.preemption_retries
    count = seen[failure.kind]
    if count > allowed:
        return Decision(False, 0.0, f"the budget of {allowed} retries is spent")
    wait_s = backoff_s(in_a_row) if failure.kind == "infrastructure" else 0.0
    when = f"in {wait_s:.0f} s" if wait_s else "now"
    return Decision(True, wait_s, f"going on from the newest checkpoint {when} ({count}/{allowed})")


def backoff_s(in_a_row: int) -> float:
    """Seconds to wait before the next attempt: 0 after the first failure, then doubling."""
    return 0.0 if in_a_row <= 1 else min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (in_a_row - 2))


# ---- out of memory -------------------------------------------------------------------------------


def memory_record(shape: Shape, setup: Setup, *, row_tokens: int) -> dict[str, Any]:
    """What the record of an attempt holds, so that a failure can be explained without the model."""
    return {"shape": shape.to_dict(), "setup": asdict(setup), "row_tokens": row_tokens}


def out_of_memory_error(error: BaseException, attempt: Mapping[str, Any] | None) -> RaymodelError:
    """The error for the user, with what each knob saves.

    Args:
        error: the worker's own.
        attempt: the `attempt` event of the workers that failed; None when they never got there.
    """
    seen = f"a worker ran out of memory ({_first_line(error)})"
    record = attempt.get("memory") if attempt else None
    if record is None:
        return OutOfMemoryError(
            f"{seen}; lower `micro_batch` (less memory for activations, same result), raise "
            "`parallel.zero` (shards optimizer state, gradients and weights over the workers), or "
            "use more workers"
        )
    shape, setup = shape_from_dict(record["shape"]), Setup(**record["setup"])
    peak = plan_memory(shape, setup, row_tokens=record["row_tokens"]).peak
    parts = sorted(peak.parts.items(), key=lambda part: -part[1])
    knobs = list_savings(
        shape,
        setup,
        row_tokens=record["row_tokens"],
        room=Room(max_workers=2 * setup.workers),
    )
    each = "; ".join(
        f"`{changes_text(changes)}` saves {gib_text(saved)}" for changes, saved in knobs
    )
    return OutOfMemoryError(
        f"{seen}; a worker needs {gib_text(peak.total)}: "
        f"{', '.join(f'{name} {gib_text(size)}' for name, size in parts)}. What helps, with the "
        f"same result: {each}"
    )


def is_out_of_memory(failure: Failure) -> bool:
    return _is_out_of_memory(failure.error)


# Ray's memory monitor and torch's allocators say one of these. Ray names the kernel's "OOM killer"
# as one of several guesses after every sudden death, so that word alone says nothing.
_MEMORY_WORDS = re.compile(
    r"out of memory|memory pressure|running low on memory|can't allocate memory"
    r"|due to (high )?memory usage exceed",
    re.IGNORECASE,
)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OutOfMemoryError):
        return True
    if isinstance(error, RaymodelError):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"OutOfMemoryError", "MemoryError"} & names or _MEMORY_WORDS.search(str(error)))


# ---- what errors say ----------------------------------------------------------------------------


# What gloo, NCCL and torch's store say when the other side is gone.
_BROKEN_WORDS = re.compile(
    r"connection (reset|closed|refused|was)|read error|broken pipe|remote process exited"
    r"|socket timeout|nccl.{0,40}(system|remote|aborted)",
    re.IGNORECASE,
)


# What torch says when a device fails, which another one may not.
_DEVICE_WORDS = re.compile(r"\b(cuda|cudnn|cublas|nccl|hip|device-side)\b", re.IGNORECASE)


def _is_dead(error: BaseException) -> bool:
    """Whether this is Ray's word that an actor or its node is no more."""
    return bool(re.search(r"Died|Crashed|Unavailable", type(error).__name__))


def _cause_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else type(error).__name__
