"""Trackers: the same records in TensorBoard, Weights & Biases or MLflow.

They run on the driver and read what training has stored, so a slow or broken tracker never holds
up a step. On every start of a job all records are given again from the first one; each tracker
makes sure that no step is doubled.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from raymodel.errors import SpecError
from raymodel.storage.uri import Location


class Tracker(Protocol):
    """Takes records in the order of the file."""

    name: str

    def log(self, record: Mapping[str, Any]) -> None:
        """One record of `metrics.jsonl`."""

    def rewind(self, step: int) -> None:
        """The records from `step` on are being made again; forget the first ones."""

    def flush(self) -> None:
        """All that is here for now; a good moment to store it."""

    def close(self) -> None:
        """Nothing more comes."""


def build_tracker(name: str, location: Location, run_name: str) -> Tracker:
    """The tracker that a job asks for.

    Args:
        name: `tensorboard`, `wandb` or `mlflow`.
        location: the execution's folder; its name (a fingerprint) identifies the run.
        run_name: what people see, such as `JOB/STAGE`.

    Raises:
        SpecError: when the name is unknown or the package is not installed.
    """
    builders: dict[str, Callable[[Location, str], Tracker]] = {
        "tensorboard": TensorBoardTracker,
        "wandb": WandbTracker,
        "mlflow": MlflowTracker,
    }
    if name not in builders:
        raise SpecError(f"{name!r} is no tracker; use one of {', '.join(builders)}")
    try:
        return builders[name](location, run_name)
    except ImportError as error:
        raise SpecError(
            f"the tracker {name!r} is asked for, but its package is not installed ({error}); "
            "pip install 'raymodel[tracking]', or take the tracker out of the job"
        ) from error


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if name not in ("step", "time_s") and isinstance(value, int | float)
    }


class TensorBoardTracker:
    """Event files in `<execution>/tensorboard`, made anew on each start."""

    name = "tensorboard"
    _STORE_EVERY_S = 30.0

    def __init__(self, location: Location, run_name: str = "") -> None:
        """Deletes what an earlier start wrote; its records will come again."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = location / "tensorboard"
        folder.delete_tree()
        # TensorBoard finds files by the `tfevents` in their name.
        stem = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / stem
        # In memory, then stored whole: the same for disks and buckets. 200 bytes a number and a
        # few hundred records make this small.
        self._buffer = io.BytesIO()
        self._writer = RecordWriter(self._buffer)
        self._stored_s = time.monotonic()
        self._write_event(file_version="brain.Event:2")

    def log(self, record: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in _numbers(record).items()]
        self._write_event(
            step=record["step"],
            wall_time=record.get("time_s"),
            summary=Summary(value=values),
        )

    def rewind(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        # TensorBoard drops everything from this step on when it reads a session start.
        self._write_event(step=step, session_log=SessionLog(status=SessionLog.START))

    def flush(self) -> None:
        if time.monotonic() - self._stored_s > self._STORE_EVERY_S:
            self._store()

    def close(self) -> None:
        self._store()

    def _store(self) -> None:
        self._stored_s = time.monotonic()
        self._file.write_bytes(self._buffer.getvalue())

    def _write_event(self, wall_time: float | None = None, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=wall_time or time.time(), **fields)
        self._writer.write(event.SerializeToString())


class WandbTracker:
    """Weights & Biases; the execution's fingerprint is the run's id, so a restart goes on in it."""

    name = "wandb"

    def __init__(self, location: Location, run_name: str) -> None:
        """Opens or resumes the run."""
        import wandb

        self._run = wandb.init(id=location.name, name=run_name, resume="allow")

    def log(self, record: Mapping[str, Any]) -> None:
        # W&B cannot go back: it takes a step only once. What is left out is the same as what it
        # has, since training repeats itself exactly.
        if record["step"] >= self._run.step:
            self._run.log(_numbers(record), step=record["step"])

    def rewind(self, step: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


class MlflowTracker:
    """MLflow; a tag with the execution's fingerprint finds the run again after a restart."""

    name = "mlflow"
    _TAG = "raymodel.fingerprint"

    def __init__(self, location: Location, run_name: str) -> None:
        """Opens or resumes the run in the experiment that the environment names."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID", "0")  # 0 is MLflow's default one
        found = self._client.search_runs([experiment], f"tags.`{self._TAG}` = '{location.name}'")
        run = found[0] if found else self._client.create_run(
            experiment, run_name=run_name, tags={self._TAG: location.name}
        )  # fmt: skip
        self._run_id = run.info.run_id
        self._next_step = 0
        if "tokens" in run.data.metrics:  # any metric that every record has
            history = self._client.get_metric_history(self._run_id, "tokens")
            self._next_step = 1 + max(point.step for point in history)

    def log(self, record: Mapping[str, Any]) -> None:
        if record["step"] < self._next_step:
            return  # MLflow would keep both
        self._next_step = record["step"] + 1
        for name, value in _numbers(record).items():
            self._client.log_metric(self._run_id, name, value, step=record["step"])

    def rewind(self, step: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
