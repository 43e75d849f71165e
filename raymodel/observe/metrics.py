"""The table of metrics: every name that may stand in `metrics.jsonl`, and what it means.

A record holds `step` and any of the others; rates and times are over the steps since the last
record. The progress line, trackers, reports and `raymodel status` read these records and nothing
else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Reduction = Literal["same", "sum", "mean", "max", "min", "first"]
"""How the values of the workers become the one that is logged: `same` on all of them, combined,
or taken from the `first` rank."""


class Metric(NamedTuple):
    """One row of the table."""

    name: str
    unit: str
    reduction: Reduction
    meaning: str


_TABLE = (
    Metric("step", "steps", "same", "optimizer steps completed"),
    Metric("time_s", "s", "first", "wall clock when the record was made, since 1970 UTC"),
    Metric("attempt", "", "same", "starts of this execution so far, from 1"),
    Metric("workers", "", "same", "training processes"),
    Metric("tokens", "tokens", "sum", "tokens read since step 0, padding left out; or `unit`"),
    Metric("unit", "", "same", "what `tokens` counts where it is not tokens: images"),
    Metric("padding", "", "sum", "share of the tokens computed for the step that is padding"),
    Metric("rows", "rows", "sum", "rows read since step 0"),
    Metric("targets", "", "sum", "targets that bore loss since step 0"),
    Metric("epoch", "epochs", "same", "passes over the data, with fraction"),
    Metric("loss", "nats/target", "sum", "loss of the step's global batch, per target"),
    Metric("validation_loss", "nats/target", "sum", "loss on held-out rows, per target"),
    Metric("grad_norm", "", "same", "global 2-norm of the gradient before clipping"),
    Metric("learning_rate", "", "same", "rate that the step used"),
    Metric("loss_scale", "", "same", "factor on the loss under fp16"),
    Metric("non_finite_steps", "steps", "same", "steps left out since step 0: loss not finite"),
    Metric("bad_rows", "rows", "sum", "rows left out since step 0: their shard was corrupt"),
    Metric("tokens_per_s", "tokens/s", "sum", "tokens of all workers over wall time"),
    Metric("mfu", "", "same", "model FLOPs per second over the peak of all workers"),
    Metric("mfu_peak", "", "same", "where that peak is from: measured (CPU) or data sheet"),
    Metric("step_time_s", "s", "max", "mean wall time of a step since the last record"),
    Metric("data_wait_s", "s", "max", "part of a step spent waiting for its batch"),
    Metric("checkpoint_stall_s", "s", "max", "time that checkpoints stopped training"),
    Metric("memory_peak_bytes", "bytes", "max", "most memory of a worker: device, or RSS on CPU"),
    Metric("goodput", "", "same", "productive share of all wall time so far, over all attempts"),
    Metric("data_digest", "hex", "same", "running hash of the row ids consumed, in order"),
)  # fmt: skip

METRICS = {metric.name: metric for metric in _TABLE}


def check_record(record: Mapping[str, Any]) -> None:
    """Refuses a record that the readers would not understand.

    Raises:
        ValueError: for a name that is not in the table, or when `step` is missing.
    """
    for name in record:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name!r} is no metric{hint} All are listed in observe/metrics.py")
    if not isinstance(record.get("step"), int):
        raise ValueError(f"a record needs a whole number of steps; step is {record.get('step')!r}")
