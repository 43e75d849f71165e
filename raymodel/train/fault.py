"""What a failure is, and what is done about it. Pure: a policy decides, `run.py` acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raymodel.errors import OutOfMemoryError, RaymodelError, UserError

Kind = Literal["user", "infrastructure", "preemption"]

FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0


@dataclass(frozen=True)
class Failure:
    """The cause of an attempt's end."""

    kind: Kind
    cause: str
    error: BaseException


def classify(errors: list[BaseException]) -> Failure:
    """Finds the cause among the errors of all workers.

    When one worker fails, the others fail with it (a broken collective), so an error of the user's
    kind on any worker decides.
    """
    assert errors, "a failure has at least one error"
    for error in errors:
        if isinstance(error, UserError):
            return Failure("user", str(error), error)
    for error in errors:
        if _is_out_of_memory(error):
            return Failure("user", _first_line(error), OutOfMemoryError(out_of_memory_text(error)))
    for error in errors:
        if getattr(error, "preempted", False) or type(error).__name__ == "PreemptionError":
            return Failure("preemption", _first_line(error), error)
    # A worker that died tells more than those whose connection to it broke.
    died = [error for error in errors if "Died" in type(error).__name__]
    chosen = (died or errors)[0]
    return Failure("infrastructure", f"{type(chosen).__name__}: {_first_line(chosen)}", chosen)


def out_of_memory_text(error: BaseException) -> str:
    """Advice in the order of what costs least."""
    return (
        f"a worker ran out of memory ({_first_line(error)}); lower `micro_batch` (less memory for "
        "activations, same result), raise `parallel.zero` (shards optimizer state, gradients and "
        "weights over the workers), or use more workers"
    )


def backoff_s(failures: int) -> float:
    """Seconds to wait before the next attempt: 0 after the first failure, then doubling."""
    return 0.0 if failures <= 1 else min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (failures - 2))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, RaymodelError):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"OutOfMemoryError", "MemoryError"} & names) or (
        "out of memory" in str(error).lower()
    )


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0].strip()[:300] if lines else type(error).__name__
