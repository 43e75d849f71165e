"""The same doors against S3 (a moto server)."""

import pytest
from sample_artifact import FINGERPRINT, write_artifact

from raymodel.errors import ArtifactError, LocationError, StorageError
from raymodel.observe.lines import BucketLines
from raymodel.observe.records import Follower, RecordWriter, read_records
from raymodel.storage.artifact import find_artifact, open_artifact
from raymodel.storage.registry import Run, list_runs, lock_run
from raymodel.storage.uri import Location, check_writable


def test_an_artifact_and_its_run_live_in_a_bucket(bucket: Location) -> None:
    check_writable(bucket)
    run = Run(bucket / "job")
    execution = run.execution("prepare", FINGERPRINT)
    assert find_artifact(execution) is None
    with lock_run(run):
        write_artifact(execution)
        run.set_latest("prepare", FINGERPRINT)
    artifact = open_artifact(execution)
    artifact.verify()
    assert run.latest("prepare") == artifact
    assert list_runs(bucket) == [run]
    shard = execution / "data/shard-0.bin"
    assert shard.read_range(3, 4) == b"3456"
    with pytest.raises(LocationError, match="not on a local disk"):
        _ = shard.local_path
    shard.write_bytes(b"cut")
    with pytest.raises(ArtifactError, match=r"shard-0\.bin has 3 bytes"):
        open_artifact(execution)
    run.location.delete_tree()
    assert list_runs(bucket) == []


def test_an_upload_that_fails_leaves_no_object(bucket: Location) -> None:
    def fill(stream: object) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (bucket / "x")._write(fill)
    assert not (bucket / "x").exists()


def test_a_bucket_that_does_not_exist_is_not_writable(bucket: Location) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        check_writable(Location.parse("s3://no-such-bucket/runs"))


def test_records_are_put_whole_and_found_again(bucket: Location) -> None:
    file = bucket / "metrics.jsonl"
    with RecordWriter(file) as writer:
        for step in (1, 2, 3):
            writer.write({"step": step})
    follower = Follower(file)
    assert len(follower.poll()) == 3
    with RecordWriter(file) as writer:
        assert writer.truncate_after(1) == 2
        writer.write({"step": 2, "loss": 0.5})
    assert read_records(file) == [{"step": 1}, {"step": 2, "loss": 0.5}]
    assert follower.poll() == [{"step": 2, "loss": 0.5}]


def test_a_bucket_that_refuses_for_a_while_loses_no_record(
    bucket: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, refusals = Location.write_bytes, iter([True, True, False])

    def sometimes(self: Location, data: bytes) -> None:
        if next(refusals):
            raise OSError("slow down")
        put(self, data)

    monkeypatch.setattr(Location, "write_bytes", sometimes)
    monkeypatch.setattr("raymodel.storage.retry.FIRST_WAIT_S", 0.001)
    lines = BucketLines(bucket / "events.jsonl")
    lines.append(b'{"event":"a"}\n')
    lines.close()
    assert read_records(bucket / "events.jsonl") == [{"event": "a"}]
