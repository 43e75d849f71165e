"""An artifact is complete or absent, and damage is found and named."""

import json
import os
import pickle
import signal
import subprocess
import sys

import pytest

from raymodel.errors import ArtifactError, StorageError
from raymodel.storage.artifact import find_artifact, open_artifact
from raymodel.storage.manifest import commit_manifest, load_manifest, result_files
from raymodel.storage.uri import Location


def edit_manifest(execution: Location, **changes: object) -> None:
    body = json.loads((execution / "manifest.json").read_text())
    (execution / "manifest.json").write_text(json.dumps(body | changes))


def test_a_committed_artifact_opens_verifies_and_pickles(execution: Location) -> None:
    artifact = open_artifact(execution)
    artifact.verify()
    assert artifact.stage == "prepare"
    assert artifact.fingerprint == execution.name
    assert artifact.content == {"rows": 3}
    assert list(artifact.manifest.files) == ["data/shard-0.bin", "data/shard-1.bin", "spec.yaml"]
    assert artifact.manifest.files["data/shard-0.bin"]["bytes"] == 10
    assert artifact.manifest.parents == {"data": "f" * 16}
    assert {"python", "raymodel"} <= set(artifact.manifest.versions)
    assert pickle.loads(pickle.dumps(artifact)) == artifact


def test_the_self_check_holds_for_content_that_json_changes(storage: Location) -> None:
    (storage / "data/x").write_text("x")
    content = {"pair": (1, 2), "counts": {10: 1, 9: 2}, "loss": 0.1 + 0.2}
    written = commit_manifest(
        storage, job_name="j", stage="s", fingerprint="f", parents={}, content=content
    )
    assert load_manifest(storage) == written


def test_a_manifest_cut_short_is_refused(execution: Location) -> None:
    text = (execution / "manifest.json").read_text()
    (execution / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(ArtifactError, match="not valid JSON"):
        find_artifact(execution)


def test_an_edited_manifest_is_refused(execution: Location) -> None:
    edit_manifest(execution, content={"rows": 4})
    with pytest.raises(ArtifactError, match="was edited"):
        open_artifact(execution)


def test_a_manifest_of_a_newer_format_asks_for_an_upgrade(execution: Location) -> None:
    edit_manifest(execution, format_version=2, something_new=True)
    with pytest.raises(ArtifactError, match=r"newer raymodel: format_version 2, this one reads 1"):
        open_artifact(execution)


@pytest.mark.parametrize("version", [0, None, "1"])
def test_a_manifest_of_no_known_format_is_refused(execution: Location, version: object) -> None:
    edit_manifest(execution, format_version=version)
    with pytest.raises(ArtifactError, match="format_version"):
        open_artifact(execution)


def test_a_file_cut_short_is_named(execution: Location) -> None:
    os.truncate((execution / "data/shard-1.bin").local_path, 7)
    with pytest.raises(ArtifactError, match=r"shard-1\.bin has 7 bytes, the manifest says 10"):
        open_artifact(execution)


def test_a_missing_file_is_named(execution: Location) -> None:
    (execution / "data/shard-0.bin").delete_file()
    with pytest.raises(ArtifactError, match=r"shard-0\.bin is missing"):
        open_artifact(execution)


def test_a_flipped_byte_is_found_by_verify(execution: Location) -> None:
    (execution / "data/shard-1.bin").write_bytes(b"abcdefghiX")
    artifact = open_artifact(execution)
    with pytest.raises(ArtifactError, match=r"shard-1\.bin has sha256"):
        artifact.verify()


def test_no_manifest_means_no_artifact(execution: Location) -> None:
    (execution / "manifest.json").delete_file()
    assert find_artifact(execution) is None
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        open_artifact(execution)


def test_a_kill_between_data_and_manifest_leaves_the_artifact_absent(storage: Location) -> None:
    code = f"""
import os, signal
from raymodel.storage.uri import Location
place = Location.parse({storage.uri!r})
(place / "data/shard-0.bin").write_bytes(b"whole")
with open(place.local_path / "data" / ".shard-1.bin.00.part", "wb") as file:
    file.write(b"half"); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert find_artifact(storage) is None
    assert result_files(storage) == ["data/shard-0.bin"]  # what the next attempt need not redo
    commit_manifest(storage, job_name="j", stage="s", fingerprint="f", parents={}, content={})
    assert list(open_artifact(storage).manifest.files) == ["data/shard-0.bin"]
    assert not (storage / "data/.shard-1.bin.00.part").exists()


def test_committing_a_file_that_is_not_there_fails_before_the_manifest(storage: Location) -> None:
    with pytest.raises(StorageError, match="data/x does not exist"):
        commit_manifest(
            storage,
            job_name="j",
            stage="s",
            fingerprint="f",
            parents={},
            content={},
            files=["data/x"],
        )
    assert find_artifact(storage) is None


def test_digests_taken_by_the_writer_are_not_taken_again(storage: Location) -> None:
    (storage / "data/x").write_text("x")
    manifest = commit_manifest(
        storage,
        job_name="j",
        stage="s",
        fingerprint="f",
        parents={},
        content={},
        known_sha256={"data/x": "0" * 64},
    )
    assert manifest.files["data/x"] == {"bytes": 1, "sha256": "0" * 64}
    with pytest.raises(ArtifactError, match="data/x has sha256"):
        open_artifact(storage).verify()
