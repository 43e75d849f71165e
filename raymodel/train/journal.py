"""What a run writes down: `metrics.jsonl` and `events.jsonl`, by rank 0 for all ranks.

Failures are in a file of their own: Ray's controller writes them while rank 0 may still write
events, and in a bucket the last writer of a file wins.
"""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
import torch.distributed as dist

from raymodel.errors import CheckpointError
from raymodel.observe.goodput import Ledger
from raymodel.observe.metrics import check_record
from raymodel.observe.records import RecordWriter
from raymodel.observe.text import many
from raymodel.observe.throughput import Peak, mfu
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.state import TrainState
from raymodel.train.clock import Clock
from raymodel.train.plan import TrainPlan
from raymodel.train.session import Session
from raymodel.train.spec import TrainSpec
from raymodel.train.step.engine import Engine
from raymodel.train.update.schedule import learning_rate_at
from raymodel.train.work import EVENTS_FILE, METRICS_FILE, read_ledger

_WAITS = ("data_wait", "checkpoint_stall")
# The last sign of life is known this well, in seconds and as a share of the attempt: some hundred
# records in the first minutes, some thousand in days.
_BOOKS_EVERY_S, _BOOKS_EVERY_FRAC = 1.0, 0.002


class Journal:
    """Reduces over the ranks at log steps only, so that logging costs nothing in between."""

    def __init__(
        self,
        run: Location,
        *,
        spec: TrainSpec,
        plan: TrainPlan,
        state: TrainState,
        engine: Engine,
        session: Session,
        clock: Clock,
        flops_per_token: float | None,
        peak: Peak | None,
    ) -> None:
        self._spec, self._plan, self._state = spec, plan, state
        self._engine, self._session, self._clock = engine, session, clock
        self._flops_per_token, self._peak = flops_per_token, peak
        self._metrics = self._events = None
        self._ledger = Ledger()
        if session.world_rank == 0:
            self._metrics = RecordWriter(run / METRICS_FILE, check_record)
            self._metrics.truncate_after(state.step)
            self._events = RecordWriter(run / EVENTS_FILE)
            self._ledger = read_ledger(run)
        self._attempt = len(self._ledger.attempts) + 1
        self._marked = self._mark()
        self._booked_at = 0.0

    def begin(self, asked_at: float | None, about: dict[str, Any]) -> None:
        """The workers are ready: writes the `attempt` event.

        Args:
            asked_at: Unix time at which the command asked for workers.
            about: what else to keep of this attempt.
        """
        again = "" if self._attempt == 1 else f"attempt {self._attempt}: "
        workers = self._session.world_size
        words = f"{again}{many(workers, 'worker')} from step {self._state.step}"
        self.event(
            {
                "event": "attempt",
                "attempt": self._attempt,
                "workers": workers,
                "step": self._state.step,
                "asked_at": round(asked_at or self._clock.began_at, 3),
                "began_at": round(self._clock.began_at, 3),
                "booked_s": self._booked(),
                "peak_flops_per_s": self._peak.flops_per_s if self._peak else None,
                "mfu_peak": self._peak.source if self._peak else None,
                "message": f"          {words}",
                **about,
            }
        )
        self.store()  # whoever asks why this attempt ended finds it, however soon that is

    def log(self, loss: float, padding: float) -> None:
        """One record of the step just completed.

        Args:
            loss: of its global batch.
            padding: the share of what the model computed for it that was no token.
        """
        before, now = self._marked, self._mark()
        self._marked = now
        steps = max(1, now["step"] - before["step"])
        elapsed_s = max(now["time"] - before["time"], 1e-9)
        waits = [(now[name] - before[name]) / steps for name in _WAITS]
        data_wait_s, stall_s, memory = self._max([*waits, float(peak_memory_bytes(self._engine))])
        rate = (now["tokens"] - before["tokens"]) / elapsed_s
        record = {
            **self._position(),
            "loss": loss,
            "grad_norm": self._engine.grad_norm(),
            "learning_rate": self._learning_rate(),
            "tokens_per_s": rate,
            "mfu": mfu(self._flops_per_token, rate, self._peak),
            "mfu_peak": self._peak.source if self._peak else None,
            "step_time_s": elapsed_s / steps,
            "data_wait_s": data_wait_s,
            "checkpoint_stall_s": stall_s * steps,
            "memory_peak_bytes": int(memory),
            "goodput": self._goodput(),
        }
        unit = self._engine.task.processor_class().unit
        more = {"padding": round(padding, 4)} if unit == "tokens" else {"unit": unit}
        self._write(record | more)

    def log_validation(self, validation_loss: float) -> None:
        """Adds a record with the held-out loss and tells the session.

        The last one of a run is told by the worker, when the model is written: a sweep ends a
        trial as soon as it has heard of its last step.
        """
        self._write(self._position() | {"validation_loss": validation_loss})
        if self._state.step < self._plan.total_steps:
            self._session.report({"step": self._state.step, "validation_loss": validation_loss})

    def book(self, *, now: bool = False) -> None:
        """Books the time so far, if it is time again or `now`, as after each checkpoint."""
        read_at = time.monotonic()
        attempt_s = time.time() - self._clock.began_at
        if now or read_at - self._booked_at > max(_BOOKS_EVERY_S, _BOOKS_EVERY_FRAC * attempt_s):
            self._booked_at = read_at
            self.event(
                {
                    "event": "books",
                    "attempt": self._attempt,
                    "step": self._state.step,
                    "booked_s": self._booked(),
                }
            )

    def rewind(self) -> None:
        """After the state went back: drops the records of steps that are to be done again."""
        if self._metrics is not None:
            self._metrics.truncate_after(self._state.step)
            self.book(now=True)
            attempt = self._ledger.attempts[-1]
            self._clock.rebook("train", "lost_work", attempt.train_s_after(self._state.step))
        self.book(now=True)
        self._marked = self._mark()

    def tell(self, event: str, message: str, **about: Any) -> None:
        """Writes an event that the user reads as a warning."""
        self.event({"event": event, "level": "warning", "message": message, **about})

    def passed_over(self, error: CheckpointError) -> None:
        """Tells of a checkpoint that is not whole."""
        self.tell("torn_checkpoint", f"a checkpoint is passed over: {error}")

    def event(self, event: dict[str, Any]) -> None:
        """Writes an event; on other ranks than 0 it is dropped. Any thread may call this."""
        if self._events is not None:
            self._events.write({"time_s": round(time.time(), 3), **event})
            self._ledger.add(event)

    def store(self) -> None:
        """Makes sure that all records so far outlive the process. Any thread may call this.

        Before each checkpoint: a run that goes on from it makes no record of earlier steps again.

        Raises:
            StorageUnavailableError: the storage refuses them at every try.
        """
        if self._metrics is not None and self._events is not None:
            self._metrics.store()
            self._events.store()

    def close(self) -> None:
        """Books the rest, and makes sure that all is stored."""
        self.book(now=True)
        if self._metrics is not None and self._events is not None:
            self._metrics.close()
            self._events.close()

    def _booked(self) -> dict[str, float]:
        return {activity: round(spent, 3) for activity, spent in self._clock.read().items()}

    def _goodput(self) -> float | None:
        self.book()
        goodput = self._ledger.books().goodput
        return None if goodput is None else round(goodput, 4)

    def _position(self) -> dict[str, Any]:
        state = self._state
        return {
            "step": state.step,
            "time_s": round(time.time(), 3),
            "attempt": self._attempt,
            "workers": self._session.world_size,
            "tokens": state.tokens,
            "rows": state.rows,
            "targets": state.targets,
            "bad_rows": state.bad_rows,
            "non_finite_steps": state.non_finite_steps,
            "epoch": state.step * self._plan.global_batch / self._plan.rows_per_epoch,
            "data_digest": state.data_digest,
        }

    def _learning_rate(self) -> float:
        peak = self._spec.optimizer.peak
        return learning_rate_at(self._state.step, self._plan.total_steps, peak, self._spec.schedule)

    def _mark(self) -> dict[str, float]:
        booked = self._clock.read()
        return {
            "step": self._state.step,
            "tokens": self._state.tokens,
            "time": time.monotonic(),
            **{name: booked.get(name, 0.0) for name in _WAITS},
        }

    def _max(self, values: list[float]) -> list[float]:
        most = torch.tensor(values, dtype=torch.float64, device=self._engine.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return list(most.tolist())

    def _write(self, record: dict[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(record)


def peak_memory_bytes(engine: Engine) -> int:
    """Most memory this worker held: of the GPU when it has one, else resident."""
    if engine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(engine.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
