"""Each tracker holds exactly the numbers of `metrics.jsonl`, after rewinds and restarts too.

What it stored is read back: TensorBoard's event file, W&B's offline run, MLflow's store.
"""

import io
import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodel.observe import watch as watch_module
from raymodel.observe.records import RecordWriter, read_records
from raymodel.observe.story import Story
from raymodel.observe.trackers import build_tracker
from raymodel.observe.watch import watch_training
from raymodel.storage.uri import Location

Points = list[tuple[str, int, float]]
"""Name, step, value."""


@pytest.fixture
def execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setattr(watch_module, "_POLL_LOCAL_S", 0.01)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Location.parse(str(tmp_path / "job" / "pretrain" / ("ab" * 8)))


def points_of(execution: Location) -> Points:
    """What a tracker should hold: every number of the records, once."""
    return sorted(
        {
            (name, record["step"], float(value))
            for record in read_records(execution / "metrics.jsonl")
            for name, value in record.items()
            if name not in ("step", "time_s") and isinstance(value, int | float)
        }
    )


def tensorboard_points(execution: Location) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator((execution / "tensorboard").uri, size_guidance={"scalars": 0})
    events.Reload()
    return sorted(
        (tag, scalar.step, scalar.value)
        for tag in events.Tags()["scalars"]
        for scalar in events.Scalars(tag)
    )


def offline_records(data: bytes) -> Iterator[bytes]:
    """W&B's offline file: seven bytes, then LevelDB's log format (blocks of 32 KiB; of each piece
    a checksum, its length, and whether it is whole, or the first, a middle or the last one)."""
    place, piece = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        piece += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield piece
            piece = b""


def wandb_points(execution: Location) -> Points:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    folder = execution.local_path.parents[2] / "wandb"
    file = max(folder.glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    points = []
    for data in offline_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        row = {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        step = row.get("_step", record.history.step.num)
        points += [(n, step, float(v)) for n, v in row.items() if not n.startswith("_")]
    return sorted(points)


def mlflow_points(execution: Location) -> Points:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient()
    [run] = client.search_runs(["0"])  # one, and none beside it
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "job/pretrain"
    return sorted(
        (name, point.step, point.value)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    )


READERS: dict[str, Callable[[Location], Points]] = {
    "tensorboard": tensorboard_points,
    "wandb": wandb_points,
    "mlflow": mlflow_points,
}


def train(writer: RecordWriter, steps: range, attempt: int) -> None:
    """Records as training makes them: each third step is validated too, the last one included."""
    for step in steps:
        position = {"step": step, "attempt": attempt, "tokens": 64 * step, "time_s": 1e9 + step}
        writer.write(position | {"loss": 8.0 / step, "goodput": 0.5 / attempt, "mfu": None})
        if step % 3 == 0:
            writer.write(position | {"validation_loss": 9.0 / step, "data_digest": "ab"})


class Watched:
    """A start of the command: its tracker, and when it has read what was written."""

    def __init__(self, execution: Location, tracker: Any) -> None:
        self.seen: list[int] = []
        log = tracker.log

        def noted(record: dict[str, Any]) -> None:
            log(record)
            self.seen.append(record["step"])

        tracker.log = noted
        self.watching = watch_training(execution, Story(io.StringIO()), 9, [tracker])

    def wait_for(self, step: int) -> None:
        until = time.monotonic() + 30
        while not self.seen or self.seen[-1] != step:
            assert time.monotonic() < until, f"the tracker never got step {step}"
            time.sleep(0.005)


@pytest.mark.parametrize("name", READERS)
def test_a_tracker_holds_the_records_after_rewinds_and_restarts(
    execution: Location, name: str
) -> None:
    pytest.importorskip(name)
    metrics = execution / "metrics.jsonl"
    first = Watched(execution, build_tracker(name, execution, "job/pretrain"))
    with first.watching, RecordWriter(metrics) as writer:
        train(writer, range(1, 6), attempt=1)
        first.wait_for(5)
        writer.truncate_after(3)  # a worker died: its attempt goes on from the checkpoint
        train(writer, range(4, 7), attempt=2)
        first.wait_for(6)
    second = Watched(execution, build_tracker(name, execution, "job/pretrain"))
    with RecordWriter(metrics) as writer, second.watching:
        second.wait_for(6)
        writer.truncate_after(3)  # the command was killed, and so were its workers
        train(writer, range(4, 10), attempt=3)
        second.wait_for(9)
    held = READERS[name](execution)
    # TensorBoard keeps 32 bits of a number.
    assert [(n, s, pytest.approx(v, rel=1e-6)) for n, s, v in points_of(execution)] == held
    assert {step for n, step, _ in held if n == "loss"} == set(range(1, 10)), "validated ones too"
