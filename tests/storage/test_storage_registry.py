"""Runs: pointers, look-ups by reference, and the lock."""

import subprocess
import sys
from typing import Any

import pytest
from sample_artifact import FINGERPRINT, write_artifact

from raymodel.errors import ArtifactError, StorageError
from raymodel.storage.artifact import open_artifact
from raymodel.storage.registry import (
    Run,
    artifact_text,
    find_in_other_runs,
    find_lock_holder,
    find_run_around,
    list_runs,
    lock_run,
    resolve_artifact,
)
from raymodel.storage.uri import Location

HOLD_LOCK = """
import sys
from raymodel.storage.registry import Run, lock_run
from raymodel.storage.uri import Location
with lock_run(Run(Location.parse(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(storage: Location, execution: Location) -> Run:
    return Run(storage / "job")


def test_latest_and_best_are_none_until_they_are_set(run: Run) -> None:
    assert run.latest("prepare") is None
    assert run.best() is None


def test_latest_and_best_give_the_artifact(run: Run, execution: Location) -> None:
    run.set_latest("prepare", FINGERPRINT)
    run.set_best(open_artifact(execution))
    assert run.latest("prepare") == run.best() == open_artifact(execution)
    assert (run.location / "best").read_text() == f"prepare/{FINGERPRINT}\n"


def test_an_artifact_of_another_run_cannot_be_best(run: Run, storage: Location) -> None:
    other = storage / "other/prepare" / FINGERPRINT
    write_artifact(other)
    with pytest.raises(ArtifactError, match="not part of the run"):
        run.set_best(open_artifact(other))


def test_stages_come_in_the_order_of_the_data(run: Run) -> None:
    for stage in ("evaluate", "pretrain"):
        (run.execution(stage, "ab" * 8) / "spec.yaml").write_text("")
    (run.location / "logs/ray.log").write_text("")
    assert run.stages() == ["prepare", "pretrain", "evaluate"]


def test_a_complete_artifact_is_found_in_another_run(run: Run, storage: Location) -> None:
    second = Run(storage / "second")
    assert find_in_other_runs(run, "prepare", FINGERPRINT) is None, "its own is not another's"
    found = find_in_other_runs(second, "prepare", FINGERPRINT)
    assert found == open_artifact(run.execution("prepare", FINGERPRINT))
    assert find_in_other_runs(second, "prepare", "ab" * 8) is None
    assert find_in_other_runs(second, "pretrain", FINGERPRINT) is None


def test_what_another_run_has_not_completed_or_has_lost_is_not_taken(
    run: Run, storage: Location
) -> None:
    (run.execution("prepare", "ab" * 8) / "data/x").write_text("half of it")
    assert find_in_other_runs(Run(storage / "second"), "prepare", "ab" * 8) is None
    (run.execution("prepare", FINGERPRINT) / "manifest.json").write_text('{"format_version": 1}')
    assert find_in_other_runs(Run(storage / "second"), "prepare", FINGERPRINT) is None


def test_a_run_names_what_it_took_over_until_that_is_gone(run: Run, storage: Location) -> None:
    second, artifact = Run(storage / "second"), open_artifact(run.execution("prepare", FINGERPRINT))
    second.set_latest("prepare", FINGERPRINT, run)
    assert second.latest("prepare") == artifact == resolve_artifact("second/prepare", storage)
    assert second.stages() == ["prepare"]
    assert second in list_runs(storage)
    assert artifact_text(artifact, second) == f"{FINGERPRINT}, made by the run job"
    assert artifact_text(artifact, run) == FINGERPRINT
    run.location.delete_tree()
    with pytest.raises(
        ArtifactError, match=r"made by the run 'job'.*is gone; run the job 'second'"
    ):
        second.latest("prepare")


def test_runs_are_folders_with_stages(run: Run, storage: Location) -> None:
    (storage / "notes/readme").write_text("")
    assert list_runs(storage) == [run]
    assert list_runs(storage / "nowhere") == []


def test_folders_of_other_users_are_no_runs(
    run: Run, storage: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal of the disk is made here."""
    (storage / "closed/prepare/latest").write_text(FINGERPRINT)
    read = Location.list

    def refuse(self: Location) -> Any:
        if "closed" in self.uri:
            raise PermissionError(13, "Permission denied")
        return read(self)

    monkeypatch.setattr(Location, "list", refuse)
    assert list_runs(storage) == [run]
    assert find_run_around(storage / "closed/prepare") is None


def test_the_run_around_a_part_of_it(run: Run, execution: Location) -> None:
    assert find_run_around(execution) == run
    assert find_run_around(execution.parent) == run
    assert find_run_around(run.location) is None
    assert find_run_around(Location.parse("/")) is None


def test_references_find_artifacts(run: Run, storage: Location, execution: Location) -> None:
    run.set_latest("prepare", FINGERPRINT)
    run.set_best(open_artifact(execution))
    expected = open_artifact(execution)
    for reference in ("job/prepare", "job/best", execution.uri, f"file://{execution.uri}"):
        assert resolve_artifact(reference, storage) == expected
    below = f"job/prepare/{FINGERPRINT}"
    assert resolve_artifact(below, storage / "empty", storage.local_path) == expected
    assert resolve_artifact("job/pretrain", storage) is None
    assert resolve_artifact("/no/such/folder", storage) is None


def test_a_second_process_is_refused_with_the_pid_of_the_first(run: Run) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, run.location.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert find_lock_holder(run) == holder.pid
        with (
            pytest.raises(StorageError, match=f"already being run by process {holder.pid} "),
            lock_run(run),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert find_lock_holder(run) is None
    with lock_run(run):  # the lock died with its process
        pass


def test_the_lock_is_free_again_after_the_block(run: Run) -> None:
    for _ in range(2):
        with lock_run(run):
            pass
    assert find_lock_holder(run) is None
