"""Records survive kills and rewinds, and readers see each step once."""

import os
import signal
import subprocess
import sys

import pytest

from raymodel.observe.metrics import METRICS, check_record
from raymodel.observe.records import Follower, RecordWriter, read_records
from raymodel.storage.uri import Location


@pytest.fixture
def file(tmp_path) -> Location:
    return Location.parse(str(tmp_path / "run" / "metrics.jsonl"))


def write_steps(file: Location, *steps: int, **fields: object) -> None:
    with RecordWriter(file) as writer:
        for step in steps:
            writer.write({"step": step, **fields})


def steps(records: list[dict]) -> list[int]:
    return [record["step"] for record in records]


def test_records_outlive_a_killed_writer(file: Location) -> None:
    code = f"""
import os, signal
from raymodel.observe.records import RecordWriter
from raymodel.storage.uri import Location
writer = RecordWriter(Location.parse({file.uri!r}))
writer.write({{"step": 1}})
writer._lines._file.write(b'{{"step": 2, "lo')
writer._lines._file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert steps(read_records(file)) == [1]
    write_steps(file, 2)
    assert file.read_text() == '{"step":1}\n{"step":2}\n'


def test_a_disk_that_takes_no_more_loses_no_record_and_stops_nobody(file: Location) -> None:
    """The kernel cuts the writes of a process off at its limit, in the middle of a line."""
    code = f"""
import resource
from raymodel.errors import StorageUnavailableError
from raymodel.observe.records import RecordWriter, read_records
from raymodel.storage import retry
from raymodel.storage.uri import Location
retry.FIRST_WAIT_S = 0.001
file = Location.parse({file.uri!r})
writer = RecordWriter(file)
resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))
for step in (1, 2, 3):
    writer.write({{"step": step}})
assert file.size() == 15
try:
    writer.store()
    raise SystemExit("it was full")
except StorageUnavailableError as error:
    assert "metrics.jsonl failed 6 times" in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write({{"step": 4}})
assert len(read_records(file)) == 4
writer.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert steps(read_records(file)) == [1, 2, 3, 4]


def test_a_resumed_run_holds_no_step_twice(file: Location) -> None:
    write_steps(file, 1, 2, 3)
    with RecordWriter(file) as writer:
        assert writer.truncate_after(2) == 1
        assert writer.truncate_after(2) == 0
        writer.write({"step": 3, "loss": 1.0})
    assert read_records(file) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]


def test_records_without_a_step_stay(file: Location) -> None:
    with RecordWriter(file) as writer:
        writer.write({"event": "start"})
        writer.write({"event": "checkpoint", "step": 5})
        writer.truncate_after(0)
    assert read_records(file) == [{"event": "start"}]


def test_not_a_number_becomes_null(file: Location) -> None:
    write_steps(file, 1, loss=float("nan"))
    assert read_records(file) == [{"step": 1, "loss": None}]


def test_a_checked_writer_refuses_before_it_writes(file: Location) -> None:
    with RecordWriter(file, check_record) as writer, pytest.raises(ValueError, match="lr"):
        writer.write({"step": 1, "lr": 0.1})
    assert read_records(file) == []


def test_a_file_that_is_not_there_has_no_records(file: Location) -> None:
    assert read_records(file) == []
    assert Follower(file).poll() == []


def test_a_follower_gives_each_record_once_and_waits_for_whole_lines(file: Location) -> None:
    follower = Follower(file)
    write_steps(file, 1, 2)
    assert steps(follower.poll()) == [1, 2]
    assert follower.poll() == []
    with open(file.local_path, "ab") as stream:
        stream.write(b'{"step":')
        stream.flush()
        assert follower.poll() == []
        stream.write(b"3}\n")
    assert steps(follower.poll()) == [3]


def test_a_follower_sees_what_replaces_dropped_records(file: Location) -> None:
    follower = Follower(file)
    write_steps(file, 1, 2, 3, attempt=1)
    follower.poll()
    with RecordWriter(file) as writer:
        writer.truncate_after(1)
        assert follower.poll() == []
        for step in (2, 3, 4):
            writer.write({"step": step, "attempt": 2})
    assert [(r["step"], r["attempt"]) for r in follower.poll()] == [(2, 2), (3, 2), (4, 2)]
    write_steps(file, 5)
    assert steps(follower.poll()) == [5]


def test_a_follower_notices_a_rewrite_that_made_the_file_longer(file: Location) -> None:
    follower = Follower(file)
    write_steps(file, 1, 2)
    follower.poll()
    with RecordWriter(file) as writer:
        writer.truncate_after(1)
        for step in range(2, 50):
            writer.write({"step": step, "attempt": 2})
    assert steps(follower.poll()) == list(range(2, 50))


def test_a_follower_survives_a_file_that_went_away(file: Location) -> None:
    follower = Follower(file)
    write_steps(file, 1, 2)
    follower.poll()
    os.truncate(file.local_path, 0)
    assert follower.poll() == []
    write_steps(file, 1)
    assert steps(follower.poll()) == [1]


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    check_record({"step": 1, "loss": 2.0, "mfu": None})
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        check_record({"step": 1, "learning_rat": 0.1})
    with pytest.raises(ValueError, match="step is None"):
        check_record({"loss": 2.0})


def test_the_contract_of_the_architecture_is_in_the_table() -> None:
    contract = (
        "step tokens loss grad_norm learning_rate tokens_per_s mfu step_time_s data_wait_s "
        "checkpoint_stall_s memory_peak_bytes goodput data_digest validation_loss"
    )
    assert set(contract.split()) <= set(METRICS)
