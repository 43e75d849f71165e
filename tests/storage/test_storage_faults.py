"""Against an S3 server that refuses, breaks connections off and is slow."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import StorageError, StorageUnavailableError
from raymodel.observe.records import RecordWriter, read_records
from raymodel.storage import retry
from raymodel.storage.uri import Location, check_writable
from raymodel.testing.s3 import Fault, Faults

SDK_TRIES = 3  # of pyarrow's S3 client; our own come on top


@pytest.fixture
def faults(server: tuple[Location, Faults], monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retry, "TRIES", 3)
    yield server[1]
    server[1].clear()


@pytest.fixture
def bucket(server: tuple[Location, Faults], request: pytest.FixtureRequest) -> Location:
    return server[0] / request.node.name.replace("[", "-").strip("]")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(does="refuse", status=503, times=SDK_TRIES + 1),
        Fault(does="refuse", status=500, times=SDK_TRIES + 1),
        Fault(does="reset", times=SDK_TRIES + 1),
        Fault(does="wait", wait_s=0.3, times=2),
    ],
    ids=lambda fault: f"{fault.does}-{fault.status}",
)
def test_reading_outlasts_a_fault(bucket: Location, faults: Faults, fault: Fault) -> None:
    file = bucket / "x.bin"
    file.write_bytes(bytes(range(256)))
    faults.add(fault)
    assert file.read_range(3, 4) == bytes([3, 4, 5, 6])
    assert file.size() == 256
    assert [entry.name for entry in bucket.list()] == ["x.bin"]
    assert fault.hits == fault.times, "it did go wrong"


@pytest.mark.parametrize("does", ["refuse", "reset", "cut"])
def test_each_read_of_an_open_file_outlasts_a_fault(
    bucket: Location, faults: Faults, does: str
) -> None:
    """Of reads of a few bytes pyarrow's client makes a single try."""
    content = random.Random(0).randbytes(300_000)
    (bucket / "x.bin").write_bytes(content)
    with (bucket / "x.bin").open_input() as stream:
        fault = faults.add(Fault(does=does, status=500, every=2, where="GET"))
        assert stream.read(4) == content[:4]
        assert stream.read_at(100_000, 7) == content[7:100_007]
        stream.seek(-8, 2)
        assert (stream.read(), stream.read(), stream.tell()) == (content[-8:], b"", len(content))
        assert stream.size() == len(content)
    assert fault.hits >= 2


@pytest.mark.parametrize("does", ["refuse", "reset"])
def test_writing_outlasts_a_fault(
    bucket: Location, faults: Faults, tmp_path: Path, does: str
) -> None:
    (tmp_path / "local").write_bytes(b"local" * 1000)
    for write, content in (
        (lambda: (bucket / "x").write_bytes(b"given"), b"given"),
        (lambda: (bucket / "x").upload(tmp_path / "local"), b"local" * 1000),
    ):
        fault = faults.add(Fault(does=does, times=SDK_TRIES + 1, where="PUT|POST"))
        write()
        assert fault.hits == fault.times, "it did go wrong"
        assert (bucket / "x").read_bytes() == content


def test_what_is_not_worth_waiting_for_is_tried_once(bucket: Location, faults: Faults) -> None:
    faults.add(Fault(does="refuse", where="PUT|POST", times=SDK_TRIES))
    with pytest.raises(OSError, match="SLOW_DOWN"), retry.one_try():
        (bucket / "x").write_bytes(b"given")
    faults.add(Fault(does="refuse", where="PUT|POST", times=SDK_TRIES))
    with pytest.raises(StorageError, match="cannot be written"):
        check_writable(bucket)


@pytest.mark.parametrize("name", ["x.gz", "x.bz2", "x.zst", "x.lz4"])
def test_a_file_is_stored_as_it_is_whatever_it_is_called(bucket: Location, name: str) -> None:
    (bucket / name).write_bytes(b"given")
    assert (bucket / name).read_bytes() == b"given"


def test_a_server_that_stays_broken_is_named(bucket: Location, faults: Faults) -> None:
    (bucket / "x.bin").write_bytes(b"x")
    fault = faults.add(Fault(does="refuse", status=500))
    with pytest.raises(StorageUnavailableError, match=r"x\.bin failed 3 times.*HTTP status 500"):
        (bucket / "x.bin").read_bytes()
    assert fault.hits == 3 * SDK_TRIES


def test_deleting_outlasts_a_fault(bucket: Location, faults: Faults) -> None:
    (bucket / "x/y").write_bytes(b"x")
    faults.add(Fault(does="refuse", times=SDK_TRIES + 1))
    (bucket / "x").delete_tree()
    assert not (bucket / "x/y").exists()


def test_records_wait_for_a_bucket_that_refuses(bucket: Location, faults: Faults) -> None:
    file = bucket / "metrics.jsonl"
    fault = faults.add(Fault(does="refuse", where=r"(PUT|POST) .*metrics\.jsonl"))
    writer = RecordWriter(file)
    writer.write({"step": 1})
    with pytest.raises(StorageUnavailableError, match=r"metrics\.jsonl failed 3 times"):
        writer.store()
    writer.write({"step": 2})
    assert fault.hits
    faults.clear()
    writer.store()
    assert read_records(file) == [{"step": 1}, {"step": 2}]
    writer.close()


def test_a_changed_source_in_a_bucket_has_another_identity(bucket: Location) -> None:
    """Even of the same size. Object stores tell whole seconds."""
    spec = SourceSpec(path=(bucket / "texts").uri)
    (bucket / "texts/a.txt").write_bytes(b"one")
    (bucket / "texts/b.txt").write_bytes(b"two")
    before = resolve_source(spec).identity
    assert resolve_source(spec).identity == before
    alone = SourceSpec(path=(bucket / "texts/a.txt").uri)
    assert resolve_source(alone).identity["files"] == before["files"][:1]
    time.sleep(1.1)
    (bucket / "texts/b.txt").write_bytes(b"TWO")
    assert resolve_source(spec).identity != before
    assert resolve_source(alone).identity["files"] == before["files"][:1]


def test_the_age_of_a_local_source_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    changed_ns = (tmp_path / "a.txt").stat().st_mtime_ns
    spec = SourceSpec(path=str(tmp_path))
    assert resolve_source(spec).identity == {"files": [["a.txt", 3, changed_ns]]}
