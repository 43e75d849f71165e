"""What a run writes down: `metrics.jsonl` and `events.jsonl`, by rank 0 for all ranks."""

from __future__ import annotations

import math
import resource
import time
from typing import Any

import torch
import torch.distributed as dist

from raymodel.errors import NonFiniteLossError
from raymodel.observe.metrics import check_record
from raymodel.observe.records import RecordWriter
from raymodel.observe.throughput import find_peak_flops, mfu
from raymodel.storage.uri import Location
from raymodel.train.checkpoint import TrainState
from raymodel.train.clock import Clock
from raymodel.train.engine import Engine
from raymodel.train.plan import TrainPlan
from raymodel.train.schedule import learning_rate_at
from raymodel.train.session import Session
from raymodel.train.spec import TrainSpec

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
_WAITS = ("data_wait", "checkpoint_stall")


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
        attempt: int,
        flops_per_token: float | None,
    ) -> None:
        self._spec, self._plan, self._state = spec, plan, state
        self._engine, self._session, self._clock = engine, session, clock
        self._attempt, self._flops_per_token = attempt, flops_per_token
        self._metrics = self._events = None
        if session.world_rank == 0:
            self._metrics = RecordWriter(run / METRICS_FILE, check_record)
            self._metrics.truncate_after(state.step)
            self._events = RecordWriter(run / EVENTS_FILE)
        self._marked = self._mark()

    def log(self, loss: torch.Tensor) -> None:
        """One record of the step just completed.

        Args:
            loss: this worker's part of the step's mean loss, on the device.

        Raises:
            NonFiniteLossError: on every rank alike.
        """
        before, now = self._marked, self._mark()
        self._marked = now
        global_loss = self._sum(loss)
        steps = max(1, now["step"] - before["step"])
        elapsed_s = max(now["time"] - before["time"], 1e-9)
        waits = [(now[name] - before[name]) / steps for name in _WAITS]
        data_wait_s, stall_s, memory = self._max([*waits, float(peak_memory_bytes(self._engine))])
        rate = (now["tokens"] - before["tokens"]) / elapsed_s
        record = {
            **self._position(),
            "loss": global_loss,
            "grad_norm": self._engine.grad_norm(),
            "learning_rate": self._learning_rate(),
            "tokens_per_s": rate,
            "mfu": self._mfu(rate),
            "step_time_s": elapsed_s / steps,
            "data_wait_s": data_wait_s,
            "checkpoint_stall_s": stall_s * steps,
            "memory_peak_bytes": int(memory),
        }
        self._write(record)
        self._check(global_loss)

    def log_validation(self, validation_loss: float) -> None:
        """Adds a record with the held-out loss and tells the session."""
        self._write(self._position() | {"validation_loss": validation_loss})
        self._session.report({"step": self._state.step, "validation_loss": validation_loss})

    def check_finite(self, loss: torch.Tensor) -> None:
        """Before a checkpoint: a state that is already lost must not replace a good one."""
        self._check(self._sum(loss))

    def event(self, event: dict[str, Any]) -> None:
        """Writes an event; on other ranks than 0 it is dropped."""
        if self._events is not None:
            self._events.write({"time_s": round(time.time(), 3), **event})

    def close(self) -> None:
        if self._metrics is not None and self._events is not None:
            self._metrics.close()
            self._events.close()

    def _check(self, loss: float) -> None:
        if math.isfinite(loss) or self._spec.fault.non_finite_loss != "stop":
            return
        raise NonFiniteLossError(
            f"the loss at step {self._state.step} is {loss}; training cannot go on from there. "
            "Lower `optimizer.learning_rate`, lengthen `schedule.warmup`, set "
            "`optimizer.gradient_clip`, or look at the data of that step; the last good "
            "checkpoint is kept"
        )

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
            "epoch": state.step * self._plan.global_batch / self._plan.rows_per_epoch,
            "data_digest": state.data_digest,
        }

    def _learning_rate(self) -> float:
        peak = self._spec.optimizer.learning_rate
        return learning_rate_at(self._state.step, self._plan.total_steps, peak, self._spec.schedule)

    def _mfu(self, tokens_per_s: float) -> float | None:
        if self._flops_per_token is None or self._engine.device.type != "cuda":
            return None
        peak = find_peak_flops(torch.cuda.get_device_name(self._engine.device))
        return mfu(tokens_per_s, self._flops_per_token, peak, self._session.world_size)

    def _mark(self) -> dict[str, float]:
        booked = self._clock.read()
        return {
            "step": self._state.step,
            "tokens": self._state.tokens,
            "time": time.monotonic(),
            **{name: booked.get(name, 0.0) for name in _WAITS},
        }

    def _sum(self, value: torch.Tensor) -> float:
        total = value.detach().double()
        dist.all_reduce(total)
        return float(total)

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
