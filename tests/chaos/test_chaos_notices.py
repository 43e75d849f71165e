"""Real Ray Train runs that are told to leave, hang, shrink, or lose their command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import yaml
from faults import at_step, check_same_end, signal_worker
from tiny_runs import events, records

from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import TrainingError
from raymodel.observe.records import read_records
from raymodel.observe.story import Story
from raymodel.storage.uri import Location
from raymodel.testing.tiny import tiny_job, write_tiny_corpus
from raymodel.train.checkpoint.index import rank_file
from raymodel.train.checkpoint.state import checkpoint_location, committed_steps
from raymodel.train.run import train_on_ray
from raymodel.train.work import TrainWork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TWO = ClusterSpec(workers=2)


def test_sigterm_to_a_worker_saves_first_and_loses_nothing(
    cluster: None, work: TrainWork, whole: TrainWork
) -> None:
    at_step(work, 15, lambda: signal_worker(work, 1, signal.SIGTERM))
    train_on_ray(work, TWO, Story(StringIO()))
    check_same_end(work, whole)
    (failure,) = records(work, "failures")
    assert failure["kind"] == "preemption"
    first, second = events(work, "attempt")
    assert second["step"] == events(work, "left")[0]["step"] > 15 > first["step"]


def test_a_frozen_worker_is_found_and_its_peers_stacks_are_saved(
    cluster: None, work: TrainWork, whole: TrainWork
) -> None:
    at_step(work, 15, lambda: signal_worker(work, 1, signal.SIGSTOP))
    train_on_ray(work, TWO, Story(StringIO()))
    check_same_end(work, whole)
    (failure,) = records(work, "failures")
    assert failure["kind"] == "infrastructure"
    assert failure["cause"].startswith("hang (rank 0: no step for")
    (stack,) = (work.run / "stacks").list()
    assert "all_reduce" in (work.run / "stacks" / stack.name).read_text()


def test_an_elastic_run_survives_the_loss_of_a_worker(
    cluster: None, work: TrainWork, whole: TrainWork
) -> None:
    at_step(work, 15, lambda: signal_worker(work, 1, signal.SIGKILL))
    elastic = ClusterSpec.model_validate({"workers": {"min": 1, "max": 2}})
    train_on_ray(work, elastic, Story(StringIO()))
    # It may go on with one worker, which sums in another order: rows alike, losses nearly.
    ours, theirs = (records(each, "metrics")[-2:] for each in (work, whole))
    assert ours[-1]["data_digest"] == theirs[-1]["data_digest"]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-4)


def test_the_checkpoint_before_a_damaged_one_is_gone_on_from_with_its_own_rows(
    cluster: None, work: TrainWork, whole: TrainWork
) -> None:
    """The damage shows when the bytes are read. That rows may be skipped must not hide others."""
    work = TrainWork(**vars(work) | {"spec": work.spec.model_copy(update={"on_bad_shard": "skip"})})
    damaged = []

    def damage_and_kill() -> None:
        damaged.append(committed_steps(work.run)[-1])
        path = checkpoint_location(work.run, damaged[0]).local_path / rank_file(0)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        signal_worker(work, 1, signal.SIGKILL)

    at_step(work, 25, damage_and_kill)
    train_on_ray(work, TWO, Story(StringIO()))
    check_same_end(work, whole)
    (_, second) = events(work, "attempt")
    assert second["step"] == damaged[0] - 10
    assert records(work, "metrics")[-1].get("bad_rows", 0) == 0


def test_a_spent_budget_ends_the_run_in_one_line(cluster: None, work: TrainWork) -> None:
    spec = work.spec.model_copy(update={"fault": work.spec.fault.model_copy(update={"retries": 0})})
    work = TrainWork(**vars(work) | {"spec": spec})
    at_step(work, 5, lambda: signal_worker(work, 1, signal.SIGKILL))
    with pytest.raises(TrainingError, match=r"worker 1 died .* budget of 0 retries is spent"):
        train_on_ray(work, TWO, Story(StringIO()))


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    # Ray makes sockets there, whose paths may not be longer than 107 characters.
    ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    yield own | {"RAY_TMPDIR": ray_folder, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    shutil.rmtree(ray_folder, ignore_errors=True)


def write_job(folder: Path) -> None:
    write_tiny_corpus(folder / "corpus")
    job = tiny_job(folder, duration="400 steps", checkpoint={"every": "200 steps"})
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "raymodel", "run", "job.yaml"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_command_saves_a_checkpoint_and_the_same_command_goes_on(
    tmp_path: Path, environment: dict[str, str], number: int
) -> None:
    write_job(tmp_path)
    command = start(tmp_path, environment)
    while command.poll() is None and _last_step(tmp_path) < 20:
        time.sleep(0.05)
    command.send_signal(number)
    sent = time.monotonic()
    output, _ = command.communicate(timeout=120)
    assert time.monotonic() - sent < 60
    assert command.returncode == 130, output
    assert "run the same command again to go on" in output
    assert "Traceback" not in output

    command = start(tmp_path, environment)
    output, _ = command.communicate(timeout=600)
    assert command.returncode == 0, output
    assert "the command was interrupted" in output  # in the table of what it cost
    (folder,) = (tmp_path / "runs/tiny/pretrain").glob("*/")
    attempts = _events(folder, "attempt")
    assert len(attempts) == 2
    assert attempts[1]["step"] == _events(folder, "left")[0]["step"] >= 20
    content = json.loads((folder / "manifest.json").read_text())["content"]
    assert content["steps"] == 400


def _last_step(folder: Path) -> int:
    files = list(folder.glob("runs/tiny/pretrain/*/metrics.jsonl"))
    found = read_records(Location.parse(str(files[0]))) if files else []
    return max((record["step"] for record in found), default=0)


def _events(folder: Path, kind: str) -> list[dict]:
    found = read_records(Location.parse(str(folder / "events.jsonl")))
    return [event for event in found if event["event"] == kind]
