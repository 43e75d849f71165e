"""Locations on disk: parsing, atomic writes, listings, clear errors."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from raymodel.errors import ArtifactError, LocationError, StorageError
from raymodel.storage.uri import Entry, Location, check_writable, sha256


def test_relative_paths_start_at_the_base(tmp_path: Path) -> None:
    assert Location.parse("runs/a", tmp_path).local_path == tmp_path / "runs" / "a"
    assert Location.parse("/abs", tmp_path).local_path == Path("/abs")
    assert Location.parse("file:///abs/x").local_path == Path("/abs/x")


def test_bucket_uris_join_keep_options_and_lose_doubled_slashes() -> None:
    location = Location.parse("s3://bucket//runs/?region=eu-west-1") / "job"
    assert location.uri == "s3://bucket/runs/job?region=eu-west-1"
    assert location.name == "job"
    assert location.parent.uri == "s3://bucket/runs?region=eu-west-1"
    assert not location.is_local


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3:///x", "s3://key:pw@bucket/x"])
def test_uris_that_cannot_work_are_refused(uri: str) -> None:
    with pytest.raises(LocationError):
        Location.parse(uri)


def test_credentials_in_a_uri_are_refused_without_repeating_them() -> None:
    with pytest.raises(LocationError, match="environment") as refused:
        Location.parse("s3://AKIAKEY:hunter2@bucket/x")
    assert "hunter2" not in str(refused.value)


def test_a_question_mark_in_a_local_name_is_only_a_character(storage: Location) -> None:
    (storage / "what?" / "x").write_text("y")
    assert (storage / "what?" / "x").read_text() == "y"
    assert (storage / "what?" / "x").parent.name == "what?"


def test_a_location_cannot_lead_out_of_its_folder(storage: Location) -> None:
    with pytest.raises(AssertionError):
        storage / "../other"


def test_bytes_text_json_and_ranges_come_back(storage: Location) -> None:
    (storage / "a/b.bin").write_bytes(b"0123456789")
    (storage / "t").write_text("zwölf")
    (storage / "j").write_json({"x": [1, 2.5, None]})
    assert (storage / "a" / "b.bin").read_range(8, 10) == b"89"
    assert (storage / "a" / "b.bin").read_range(20, 1) == b""
    assert (storage / "a" / "b.bin").open_input(memory_map=True).read(3) == b"012"
    assert (storage / "t").read_text() == "zwölf"
    assert (storage / "j").read_json() == {"x": [1, 2.5, None]}


def test_names_that_are_not_utf8_are_passed_over(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9/a")
    (tmp_path / "b").write_text("")
    storage = Location.parse(str(tmp_path))
    assert [entry.name for entry in storage.list()] == ["b"]
    assert [entry.name for entry in storage.walk()] == ["b"]


def test_listings_are_sorted_and_hide_half_written_files(storage: Location) -> None:
    (storage / "b").write_bytes(b"12")
    (storage / "a/c/d").write_bytes(b"1")
    (storage / "a" / ".e.0000.part").local_path.write_bytes(b"torn")
    listed = [entry._replace(changed_ns=None) for entry in storage.list()]
    assert listed == [Entry("a", 0, True), Entry("b", 2, False)]
    walked = [entry._replace(changed_ns=None) for entry in storage.walk()]
    assert walked == [Entry("a/c/d", 1, False), Entry("b", 2, False)]
    changed_ns = (storage / "b").local_path.stat().st_mtime_ns
    assert storage.list()[1].changed_ns == (storage / "b").entry().changed_ns == changed_ns
    assert (storage / "nowhere").list() == []
    storage.delete_parts()
    assert not (storage / "a" / ".e.0000.part").exists()


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(
    storage: Location, tmp_path: Path
) -> None:
    target = storage / "x"
    target.write_text("old")

    def fill(stream: object) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        target._write(fill)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_upload_copies_and_sha256_streams(storage: Location, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc" * 4_000_000)  # more than one chunk
    (storage / "copy").upload(source)
    assert (storage / "copy").size() == 12_000_000
    assert sha256(storage / "copy") == sha256(Location.parse(str(source)))


def test_a_missing_file_is_named_with_a_fix(storage: Location) -> None:
    for action in (Location.size, Location.read_bytes, lambda x: x.open_input(memory_map=True)):
        with pytest.raises(StorageError, match="gone does not exist"):
            action(storage / "gone")


def test_json_that_was_cut_is_an_artifact_error(storage: Location) -> None:
    (storage / "x.json").write_text('{"a": 1')
    with pytest.raises(ArtifactError, match=r"x\.json is not valid JSON"):
        (storage / "x.json").read_json()


def test_deleting_what_is_gone_does_nothing(storage: Location) -> None:
    (storage / "a/b").write_text("x")
    (storage / "a").delete_tree()
    (storage / "a").delete_tree()
    (storage / "a").delete_file()
    assert not (storage / "a").exists()


def test_a_storage_below_a_regular_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/runs cannot be written.*Set `storage:`"):
        check_writable(Location.parse(str(tmp_path / "file" / "runs")))


def test_a_probe_leaves_nothing_behind(storage: Location) -> None:
    check_writable(storage / "runs")
    assert (storage / "runs").list() == []


def test_locations_pickle(storage: Location) -> None:
    storage.exists()
    assert pickle.loads(pickle.dumps(storage)) == storage


def test_importing_storage_loads_neither_pyarrow_nor_torch_nor_ray() -> None:
    code = (
        "import sys, raymodel.storage.registry, raymodel.storage.execution;"
        "sys.exit(' '.join({'pyarrow', 'torch', 'ray'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
