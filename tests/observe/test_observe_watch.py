"""From files to progress line and trackers; TensorBoard shows each step once."""

import io
import sys
import time

import pytest

from raymodel.errors import SpecError
from raymodel.observe import watch as watch_module
from raymodel.observe.records import RecordWriter
from raymodel.observe.story import Story
from raymodel.observe.trackers import TensorBoardTracker, build_tracker
from raymodel.observe.watch import watch_training, watch_trials
from raymodel.storage.uri import Location


@pytest.fixture
def execution(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setattr(watch_module, "_POLL_LOCAL_S", 0.01)
    return Location.parse(str(tmp_path / "job" / "pretrain" / ("ab" * 8)))


class ListTracker:
    name = "list"

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def begin(self) -> None:
        self.calls.append(("begin",))

    def log(self, record) -> None:
        self.calls.append(("log", record["step"]))

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
    assert tracker.calls == [("begin",), ("log", 1), ("log", 2), ("log", 3), ("close",)]
    assert "pretrain  step 3/3 · loss 3.3333" in stream.getvalue()


def test_trackers_begin_anew_when_a_run_goes_back(execution: Location) -> None:
    tracker = ListTracker()
    with watch_training(execution, Story(io.StringIO()), 3, [tracker]):
        write_steps(execution, 1, 2)
        while ("log", 2) not in tracker.calls:
            time.sleep(0.01)
        with RecordWriter(execution / "metrics.jsonl") as writer:
            writer.truncate_after(1)
            writer.write({"step": 2, "attempt": 2})
    first = [("begin",), ("log", 1), ("log", 2)]
    assert tracker.calls == [*first, ("begin",), ("log", 1), ("log", 2), ("close",)]


def test_a_broken_tracker_is_reported_and_the_others_go_on(execution: Location) -> None:
    stream, tracker = io.StringIO(), ListTracker()
    with watch_training(execution, Story(stream), 2, [BrokenTracker(), tracker]):
        write_steps(execution, 1, 2)
    assert tracker.calls == [("begin",), ("log", 1), ("log", 2), ("close",)]
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


def test_a_tracker_that_is_not_installed_is_named_with_the_fix(
    execution: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SpecError, match=r"'wandb'.*pip install 'raymodel\[tracking\]'"):
        build_tracker("wandb", execution, "job/pretrain")
    with pytest.raises(SpecError, match="no tracker; use one of tensorboard"):
        build_tracker("tensorbord", execution, "job/pretrain")


def test_a_restart_shows_where_training_is_and_not_where_it_was(execution: Location) -> None:
    stream = io.StringIO()
    write_steps(execution, 1, 2, 9)
    with watch_training(execution, Story(stream), 12):
        with RecordWriter(execution / "events.jsonl") as events:
            events.write({"event": "attempt", "message": "attempt 2: 1 worker from step 2"})
        with RecordWriter(execution / "metrics.jsonl") as writer:
            writer.truncate_after(2)
            writer.write({"step": 3, "loss": 3.0})
    assert stream.getvalue() == (
        "attempt 2: 1 worker from step 2\npretrain  step 3/12 · loss 3.0000\n"
    )


def test_a_step_that_was_validated_shows_both_losses(execution: Location) -> None:
    stream = io.StringIO()
    with watch_training(execution, Story(stream), 3):
        write_steps(execution, 3)
        while "step 3/3" not in stream.getvalue():
            time.sleep(0.01)
        with RecordWriter(execution / "metrics.jsonl") as writer:
            writer.write({"step": 3, "validation_loss": 4.5})
    assert stream.getvalue().endswith("pretrain  step 3/3 · loss 3.3333 · validation loss 4.5000\n")


def test_a_sweep_shows_how_far_its_running_trials_are(execution: Location) -> None:
    stream, running, looks = io.StringIO(), {"a1": 1, "b2": 2}, []
    folder = execution / "trials"
    with watch_trials(folder, Story(stream), 4, lambda: looks.append(1) or running):
        while len(looks) < 2:  # the trials have begun, and were looked at
            time.sleep(0.01)
        with RecordWriter(folder / "b2" / "failures.jsonl") as failures:
            failures.write({"level": "warning", "message": "worker 0 died"})
        for trial_id, step in (("a1", 2), ("b2", 1)):
            with RecordWriter(folder / trial_id / "metrics.jsonl") as writer:
                writer.write({"step": step, "loss": 1.5, "validation_loss": None})
    told = stream.getvalue()
    assert "warning: trial 2: worker 0 died\n" in told
    assert "pretrain  trial 1   step 2/4 · loss 1.5000" in told
