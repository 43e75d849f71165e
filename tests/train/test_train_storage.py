"""Whole runs whose storage misbehaves: they end as if it had not, or say what is wrong."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import events, fragments, losses, make_dataset, make_work, records, train_here

from raymodel.errors import StorageUnavailableError
from raymodel.observe.records import RecordWriter, read_records
from raymodel.storage import retry
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.testing.s3 import Fault, Faults, aws_environment
from raymodel.train import loop
from raymodel.train.checkpoint.state import committed_steps, find_checkpoint
from raymodel.train.session import TorchrunSession
from raymodel.train.spec import PretrainSpec
from raymodel.train.work import EVENTS_FILE, FAILURES_FILE, TrainWork
from raymodel.train.worker import run_worker

STEPS = 12  # with a checkpoint each four, as in `make_work`
KILLED = 9


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(dataset: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainWork:
    """The same run on a disk that works, by two workers."""
    work = make_work(dataset, tmp_path_factory.mktemp("whole"))
    run_distributed(train_here, 2, work, init=False)
    return work


@pytest.fixture(scope="module")
def remote_dataset(dataset: Artifact, server: tuple[Location, Faults]) -> Artifact:
    target = server[0] / "dataset"
    for entry in dataset.location.walk():
        (target / entry.name).write_bytes((dataset.location / entry.name).read_bytes())
    return open_artifact(target)


@pytest.fixture
def faults(server: tuple[Location, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.05)
    yield server[1]
    server[1].clear()


@pytest.fixture
def work(
    remote_dataset: Artifact, server: tuple[Location, Faults], request: pytest.FixtureRequest
) -> TrainWork:
    """A run whose data and results are in the bucket."""
    name = request.node.name.replace("[", "-").strip("]")
    return make_work(remote_dataset, server[0] / "runs" / name)


def train_remotely(
    rank: int, world_size: int, work: TrainWork, environment: dict[str, str]
) -> str | None:
    """A whole run; the error of a storage that stayed broken, if there was one."""
    os.environ.update(environment)
    retry.FIRST_WAIT_S = 0.05
    try:
        run_worker(work, TorchrunSession())
    except StorageUnavailableError as error:
        return str(error)
    return None


def train(work: TrainWork, workers: int = 2) -> list[str | None]:
    return run_distributed(train_remotely, workers, work, aws_environment(), init=False)


def assert_ended_like(work: TrainWork, whole: TrainWork) -> None:
    steps = [record["step"] for record in records(work, "metrics") if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "no step is missing or twice"
    assert losses(work) == losses(whole)
    digests = [records(each, "metrics")[-1]["data_digest"] for each in (work, whole)]
    assert digests[0] == digests[1]
    assert fragments(work, STEPS) == fragments(whole, STEPS)


# ---- a bucket ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_outlasts_a_bucket_that_refuses_resets_and_is_slow(
    work: TrainWork, whole: TrainWork, faults: Faults
) -> None:
    upload = r"(POST|PUT) .*step-00000004/rank-00001\.safetensors"
    each = [
        faults.add(Fault(does="refuse", where=upload, times=7)),
        faults.add(Fault(does="refuse", status=500, where=r"GET .*\.parquet", times=8)),
        faults.add(Fault(does="reset", where=r"POST .*step-00000008/checkpoint", times=7)),
        faults.add(Fault(does="wait", where="step-00000008", wait_s=0.2, times=5)),
        faults.add(Fault(does="refuse", where=r"(POST|PUT) .*metrics\.jsonl", times=7)),
    ]
    assert train(work) == [None, None]
    assert [fault.hits for fault in each] == [fault.times for fault in each], "all went wrong"
    assert_ended_like(work, whole)
    retries = events(work, "checkpoint_retry")
    assert {event["step"] for event in retries} == {8}, "rank 0 keeps the books"
    assert "step" in retries[0]["cause"] or "checkpoint" in retries[0]["cause"]
    assert [event["step"] for event in events(work, "checkpoint")] == [4, 8, 12]


@pytest.mark.slow
def test_a_bucket_that_stays_broken_is_one_clear_error_and_keeps_the_last_checkpoint(
    work: TrainWork, whole: TrainWork, faults: Faults
) -> None:
    faults.add(Fault(does="refuse", where=r"(POST|PUT) .*step-000000(08|12)/"))
    (message,) = train(work, workers=1)
    assert message is not None
    assert "the last checkpoint below" in message
    assert "SLOW_DOWN" in message
    assert "run again: it goes on from the checkpoint before" in message
    assert [event["step"] for event in events(work, "checkpoint_failed")] == [8, 12]
    index = find_checkpoint(work.run)
    assert index is not None
    assert index.step == 4
    faults.clear()
    assert train(work) == [None, None], "the same command again"
    assert [event["step"] for event in events(work, "attempt")] == [0, 4]
    steps = [record["step"] for record in records(work, "metrics") if "loss" in record]
    assert steps == list(range(1, STEPS + 1))
    assert (
        records(work, "metrics")[-1]["data_digest"]
        == (records(whole, "metrics")[-1]["data_digest"])
    )


def die_after_the_first_checkpoint(
    rank: int, world_size: int, work: TrainWork, environment: dict[str, str]
) -> None:
    """As `kill -9` would end it: nothing is closed, and no thread puts what it holds."""
    os.environ.update(environment)
    check: Callable[..., None] = loop._check_rows

    def check_or_die(t: loop.Training, rows: object) -> None:
        check(t, rows)
        if t.state.step == 5:
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()
            os._exit(KILLED)

    loop._check_rows = check_or_die  # type: ignore[assignment]
    run_worker(work, TorchrunSession())


@pytest.mark.slow
def test_records_of_a_killed_run_reach_as_far_as_its_checkpoint(
    work: TrainWork, whole: TrainWork, faults: Faults
) -> None:
    with pytest.raises(AssertionError, match=f"exit code {KILLED}"):
        run_distributed(die_after_the_first_checkpoint, 1, work, aws_environment(), init=False)
    assert committed_steps(work.run) == [4]
    steps = [record["step"] for record in records(work, "metrics") if "loss" in record]
    assert steps[:4] == [1, 2, 3, 4]
    assert len(events(work, "attempt")) == 1
    assert train(work, workers=2) == [None, None]
    steps = [record["step"] for record in records(work, "metrics") if "loss" in record]
    assert steps == list(range(1, STEPS + 1)), "no step is missing or twice"


# ---- a disk --------------------------------------------------------------------------------------


def train_on_disk(rank: int, world_size: int, work: TrainWork) -> None:
    retry.FIRST_WAIT_S = 0.1
    run_worker(work, TorchrunSession())


def put_a_file_in_the_way(work: TrainWork, seen: list[str]) -> None:
    """Once there is a checkpoint, its folder goes and a file takes its name: nothing can be written
    below it, not even by root. When two tries have failed, all is put back."""
    folder = work.run.local_path / "checkpoints"
    aside = folder.with_name("aside")
    while not (folder / "step-00000004/checkpoint.json").exists():
        time.sleep(0.005)
    folder.rename(aside)
    folder.write_text("in the way")
    while len(events(work, "checkpoint_retry")) < 2:
        time.sleep(0.005)
    seen += [event["cause"] for event in events(work, "checkpoint_retry")]
    folder.unlink()
    aside.rename(folder)


def test_a_run_outlasts_a_disk_that_takes_no_checkpoints_for_a_while(
    dataset: Artifact, whole: TrainWork, tmp_path: Path
) -> None:
    work, seen = make_work(dataset, tmp_path / "run"), list[str]()
    thread = threading.Thread(target=put_a_file_in_the_way, args=(work, seen), daemon=True)
    thread.start()
    run_distributed(train_on_disk, 2, work, init=False)
    thread.join(10)
    assert any("Not a directory" in cause or "File exists" in cause for cause in seen)
    assert_ended_like(work, whole)


# ---- the books of Ray's controller ---------------------------------------------------------------


@pytest.mark.slow
def test_failures_are_written_down_in_a_bucket_that_refuses_for_a_while(
    work: TrainWork, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymodel.train.fault.keeper import FailureKeeper

    fields = work.spec.to_dict() | {"fault": {"retries": 5}}
    keeper = FailureKeeper(replace(work, spec=PretrainSpec.model_validate(fields)))
    monkeypatch.setattr(retry, "TRIES", 2)
    monkeypatch.setattr("raymodel.train.fault.policy.FIRST_BACKOFF_S", 0.01)
    with RecordWriter(work.run / EVENTS_FILE) as attempts:
        attempts.write({"time_s": time.time() + 60, "event": "attempt", "workers": 2})
    lost = RuntimeError("Connection closed by peer")
    keeper.failed({1: lost})
    faults.add(Fault(does="refuse"))
    keeper.failed({0: OSError("disk on fire")})
    faults.clear()
    keeper.failed({0: StorageUnavailableError("reading shard x failed 6 times")})
    causes = [record["cause"] for record in read_records(work.run / FAILURES_FILE)]
    assert causes == [
        "worker 0 died or was cut off from the others",
        "OSError: disk on fire",
        "reading shard x failed 6 times",
    ]
    again = FailureKeeper(keeper._work)  # the command is run again
    again.failed({0: OSError("still on fire")})
    assert len(read_records(work.run / FAILURES_FILE)) == 4
