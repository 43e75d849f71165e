"""Trackers: the same records in TensorBoard, Weights & Biases or MLflow.

They run on the driver and read what training has stored, so a slow or broken tracker never holds
up a step. Each holds exactly the numbers of `metrics.jsonl`: on every start of a job, and whenever
training went back, it begins anew and all records are given again from the first one.
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

    def begin(self) -> None:
        """All records come, from the first one: what is held of them goes.

        Called at each start, and again when training went back and dropped records: what comes in
        their place differs in its times and rates, and W&B and MLflow can take nothing back.
        """

    def log(self, record: Mapping[str, Any]) -> None:
        """One record of `metrics.jsonl`. Of several of a step, the later ones hold what is new."""

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
    """An event file in `<execution>/tensorboard`, made anew each time."""

    name = "tensorboard"
    _STORE_EVERY_S = 30.0

    def __init__(self, location: Location, run_name: str = "") -> None:
        """Imports TensorBoard; `begin` deletes what an earlier start wrote."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._new_writer = RecordWriter
        self._folder = location / "tensorboard"
        self._beginnings = 0

    def begin(self) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._folder.delete_tree()
        # TensorBoard finds files by the `tfevents` in their name.
        stem = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = self._folder / f"{stem}.{self._beginnings}"
        self._beginnings += 1
        # In memory, then stored whole: the same for disks and buckets. 200 bytes a number and a
        # few hundred records make this small.
        self._buffer = io.BytesIO()
        self._writer = self._new_writer(self._buffer)
        self._stored_s = time.monotonic()
        self._write_event(file_version="brain.Event:2")
        # A TensorBoard that runs already drops what it read of the file before this one.
        self._write_event(step=0, session_log=SessionLog(status=SessionLog.START))

    def log(self, record: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=x) for tag, x in _numbers(record).items()]
        self._write_event(
            step=record["step"],
            wall_time=record.get("time_s"),
            summary=Summary(value=values),
        )

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
    """Weights & Biases; the execution's fingerprint is the run's id, whose history is overwritten
    by each beginning."""

    name = "wandb"

    def __init__(self, location: Location, run_name: str) -> None:
        import wandb

        self._init: Callable[..., Any] = wandb.init
        self._id, self._run_name = location.name, run_name
        self._run: Any = None

    def begin(self) -> None:
        self.close()
        # Without `resume` a run of this id starts anew in place of the one before.
        self._run = self._init(id=self._id, name=self._run_name)

    def log(self, record: Mapping[str, Any]) -> None:
        # What is logged of one step in several parts becomes one row of its history.
        self._run.log(_numbers(record), step=record["step"])

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class MlflowTracker:
    """MLflow; a tag with the execution's fingerprint finds the run that a beginning takes the place
    of. That one goes to MLflow's trash, its tags (a note among them) to the new one."""

    name = "mlflow"
    _TAG = "raymodel.fingerprint"
    _BATCH = 1000  # metrics that MLflow takes in one request

    def __init__(self, location: Location, run_name: str) -> None:
        """Connects to the tracking server that the environment names."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._client, self._new_metric = MlflowClient(), Metric
        self._fingerprint, self._run_name = location.name, run_name
        self._experiment = os.environ.get("MLFLOW_EXPERIMENT_ID", "0")  # 0 is MLflow's default one
        self._run_id = ""
        self._pending: list[Any] = []

    def begin(self) -> None:
        tags: dict[str, str] = {"mlflow.runName": self._run_name}
        query = f"tags.`{self._TAG}` = '{self._fingerprint}'"
        for before in self._client.search_runs([self._experiment], query):
            tags |= before.data.tags
            self._client.delete_run(before.info.run_id)
        tags[self._TAG] = self._fingerprint
        self._run_id = self._client.create_run(self._experiment, tags=tags).info.run_id
        self._pending = []

    def log(self, record: Mapping[str, Any]) -> None:
        at_ms = int(1000 * record.get("time_s", time.time()))
        self._pending += [
            self._new_metric(name, value, at_ms, record["step"])
            for name, value in _numbers(record).items()
        ]

    def flush(self) -> None:
        while self._pending:
            self._client.log_batch(self._run_id, metrics=self._pending[: self._BATCH])
            del self._pending[: self._BATCH]

    def close(self) -> None:
        self.flush()
        self._client.set_terminated(self._run_id)
