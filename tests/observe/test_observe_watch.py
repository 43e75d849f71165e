"""From files to progress line and trackers; TensorBoard shows each step once."""

import io
import sys
import time
import types

import pytest

from raymodel.errors import SpecError
from raymodel.observe import watch as watch_module
from raymodel.observe.records import RecordWriter
from raymodel.observe.story import Story
from raymodel.observe.trackers import TensorBoardTracker, build_tracker
from raymodel.observe.watch import watch_training
from raymodel.storage.uri import Location


@pytest.fixture
def execution(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setattr(watch_module, "_POLL_LOCAL_S", 0.01)
    return Location.parse(str(tmp_path / "job" / "pretrain" / ("ab" * 8)))


class ListTracker:
    name = "list"

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def log(self, record) -> None:
        self.calls.append(("log", record["step"]))

    def rewind(self, step: int) -> None:
        self.calls.append(("rewind", step))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.calls.append(("close",))


class BrokenTracker(ListTracker):
    name = "broken"

    def log(self, record) -> None:
        raise RuntimeError("quota")


def write_steps(execution: Location, *steps: int) -> None:
    with RecordWriter(execution / "metrics.jsonl") as writer:
        for step in steps:
            writer.write({"step": step, "loss": 10.0 / step, "time_s": 1e9 + step})


def scalars(execution: Location, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator((execution / "tensorboard").uri)
    events.Reload()
    return [(scalar.step, round(scalar.value, 4)) for scalar in events.Scalars(tag)]


def test_records_reach_the_line_and_the_tracker_before_the_block_ends(execution: Location) -> None:
    stream, tracker = io.StringIO(), ListTracker()
    with watch_training(execution, Story(stream), 3, [tracker]):
        write_steps(execution, 1, 2, 3)
    assert tracker.calls == [("log", 1), ("log", 2), ("log", 3), ("close",)]
    assert "pretrain  step 3/3 · loss 3.3333" in stream.getvalue()


def test_a_run_that_goes_back_rewinds_the_trackers(execution: Location) -> None:
    tracker = ListTracker()
    with watch_training(execution, Story(io.StringIO()), 3, [tracker]):
        write_steps(execution, 1, 2)
        while ("log", 2) not in tracker.calls:
            time.sleep(0.01)
        with RecordWriter(execution / "metrics.jsonl") as writer:
            writer.truncate_after(1)
            writer.write({"step": 2, "attempt": 2})
    assert tracker.calls == [("log", 1), ("log", 2), ("rewind", 2), ("log", 2), ("close",)]


def test_a_broken_tracker_is_reported_and_the_others_go_on(execution: Location) -> None:
    stream, tracker = io.StringIO(), ListTracker()
    with watch_training(execution, Story(stream), 2, [BrokenTracker(), tracker]):
        write_steps(execution, 1, 2)
    assert tracker.calls == [("log", 1), ("log", 2), ("close",)]
    assert stream.getvalue().count("the tracker broken failed and is left out") == 1


def test_only_new_events_with_a_message_are_told(execution: Location) -> None:
    stream = io.StringIO()
    with RecordWriter(execution / "events.jsonl") as events:
        events.write({"event": "failure", "message": "old news"})
        with watch_training(execution, Story(stream), 2):
            events.write({"event": "failure", "level": "warning", "message": "worker 1 was lost"})
            events.write({"event": "checkpoint", "step": 5})
    assert stream.getvalue() == "warning: worker 1 was lost\n"


def test_tensorboard_shows_all_records_of_all_starts_once(execution: Location) -> None:
    story = Story(io.StringIO())
    write_steps(execution, 1, 2)
    with watch_training(execution, story, 4, [TensorBoardTracker(execution)]):
        pass
    with watch_training(execution, story, 4, [TensorBoardTracker(execution)]):
        write_steps(execution, 4)
    assert scalars(execution, "loss") == [(1, 10.0), (2, 5.0), (4, 2.5)]
    assert len((execution / "tensorboard").list()) == 1


def test_tensorboard_forgets_steps_that_are_made_again(execution: Location) -> None:
    tracker = TensorBoardTracker(execution)
    for step in (1, 2, 3):
        tracker.log({"step": step, "loss": 1.0})
    tracker.rewind(2)
    tracker.log({"step": 2, "loss": 2.0, "data_digest": "ab", "mfu": None})
    tracker.close()
    assert scalars(execution, "loss") == [(1, 1.0), (2, 2.0)]


def test_a_tracker_that_is_not_installed_is_named_with_the_fix(
    execution: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SpecError, match=r"'wandb'.*pip install 'raymodel\[tracking\]'"):
        build_tracker("wandb", execution, "job/pretrain")
    with pytest.raises(SpecError, match="no tracker; use one of tensorboard"):
        build_tracker("tensorbord", execution, "job/pretrain")


def test_wandb_resumes_by_fingerprint_and_takes_no_step_twice(
    execution: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple] = []
    fake_run = types.SimpleNamespace(
        step=2, log=lambda values, step: logged.append((step, values)), finish=lambda: None
    )
    opened: dict = {}
    fake = types.SimpleNamespace(init=lambda **options: opened.update(options) or fake_run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = build_tracker("wandb", execution, "job/pretrain")
    for step in (1, 2):
        tracker.log({"step": step, "loss": 1.0})
    assert opened == {"id": execution.name, "name": "job/pretrain", "resume": "allow"}
    assert logged == [(2, {"loss": 1.0})]
