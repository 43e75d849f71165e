"""manifest.json: written last, so an artifact is complete or absent.

It lists every file of the result with its size and SHA-256, where the result came from, and what
made it; and it holds a SHA-256 of itself, so that an edit or a cut is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

from raymodel.errors import ArtifactError
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location, sha256
from raymodel.storage.versions import installed_versions

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
RESULT_FOLDERS = ("data", "model", "report")
RESULT_FILES = ("spec.yaml", "card.json", "card.html")
"""Those that lie beside these folders, of the stages that have them."""
_SELF_CHECK = "manifest_sha256"
_HASH_THREADS = 8  # hides the latency of object stores; hashing itself frees the GIL


class FileRecord(TypedDict):
    """What the manifest knows of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts about one artifact."""

    format_version: int
    job_name: str
    stage: str
    fingerprint: str
    parents: dict[str, str]
    """Fingerprints of the input artifacts by role."""
    versions: dict[str, str]
    """Of Python and of the packages that decided the result, see `storage/versions.py`."""
    created: str
    """UTC, ISO 8601."""
    files: dict[str, FileRecord]
    """By path relative to the artifact."""
    content: dict[str, Any]
    """The stage's own facts: rows, tokens, metrics."""


def result_files(location: Location) -> list[str]:
    """Relative paths of a stage's result: all below data/, model/ and report/, and beside them
    `RESULT_FILES`."""
    names = [f"{top}/{entry.name}" for top in RESULT_FOLDERS for entry in (location / top).walk()]
    return [name for name in RESULT_FILES if (location / name).exists()] + names


def commit_manifest(
    location: Location,
    *,
    job_name: str,
    stage: str,
    fingerprint: str,
    parents: Mapping[str, str],
    content: Mapping[str, Any],
    packages: Iterable[str] = (),
    files: Iterable[str] | None = None,
    known_sha256: Mapping[str, str] | None = None,
) -> Manifest:
    """Hashes the files and writes manifest.json, last and atomically: the artifact is complete.

    Args:
        location: the artifact's folder.
        job_name: name of the job.
        stage: name of the stage.
        fingerprint: of the stage's resolved spec and inputs.
        parents: fingerprints of the inputs by role.
        content: JSON-able facts; NaN and infinity are refused.
        packages: those that decided the result, besides Python and raymodel.
        files: paths relative to `location`; `result_files(location)` when None.
        known_sha256: digests that the writer took while it wrote, so that no file is read twice.

    Raises:
        StorageError: when a named file does not exist.
    """
    location.delete_parts()
    names = sorted(result_files(location) if files is None else files)
    known = known_sha256 or {}

    def record(name: str) -> FileRecord:
        file = location / name
        return {"bytes": file.size(), "sha256": known.get(name) or sha256(file)}

    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        records = dict(zip(names, pool.map(record, names), strict=True))
    body = {
        "format_version": FORMAT_VERSION,
        "job_name": job_name,
        "stage": stage,
        "fingerprint": fingerprint,
        "parents": dict(parents),
        "versions": installed_versions(packages),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": records,
        "content": dict(content),
    }
    # As it will be read back: tuples become lists and keys strings, so the self-check holds.
    body = json.loads(json.dumps(body, allow_nan=False))
    file, signed = location / FILE_NAME, body | {_SELF_CHECK: _digest(body)}
    with_retries(lambda: file.write_json(signed), f"writing {file}")
    return Manifest(**body)


def load_manifest(location: Location) -> Manifest:
    """Reads and checks the manifest of the artifact at `location`.

    Raises:
        ArtifactError: when it is missing, cut short, edited, or of an unknown format version.
    """
    file = location / FILE_NAME
    if not file.exists():
        raise ArtifactError(
            f"{location} has no {FILE_NAME}; an artifact is complete only once it does. "
            "Run the job that makes it, or check the path"
        )
    body = file.read_json()
    if not isinstance(body, dict):
        raise ArtifactError(f"{file} holds no JSON object; restore it, or run the stage again")
    _check_version(file, body.get("format_version"))
    if body.pop(_SELF_CHECK, None) != _digest(body):
        raise ArtifactError(
            f"{file} does not match its own {_SELF_CHECK}; it was edited after it was written. "
            "Restore it, or delete the folder and run the stage again"
        )
    return Manifest(**body)


def _check_version(file: Location, version: object) -> None:
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{file} was made by a newer raymodel: format_version {version}, this one reads "
            f"{FORMAT_VERSION}; upgrade raymodel (pip install -U raymodel)"
        )
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{file} has format_version {version!r}; this raymodel reads {FORMAT_VERSION}. "
            "Delete the folder and run the stage again"
        )


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
