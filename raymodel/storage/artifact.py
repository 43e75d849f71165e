"""Artifact: the complete result of one stage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raymodel.errors import ArtifactError
from raymodel.storage.manifest import FILE_NAME, Manifest, load_manifest
from raymodel.storage.uri import Location, sha256

_HASH_THREADS = 8


@dataclass(frozen=True)
class Artifact:
    """A folder whose manifest was read and found good. Picklable."""

    location: Location
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """The name of the artifact: a hash of the spec and the inputs that made it."""
        return self.manifest.fingerprint

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return self.manifest.stage

    @property
    def content(self) -> dict[str, Any]:
        """The stage's own facts."""
        return self.manifest.content

    def verify(self) -> None:
        """Reads every file and compares its SHA-256.

        Raises:
            ArtifactError: names the first file whose bytes are not those that were written.
        """
        names = sorted(self.manifest.files)
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            digests = pool.map(lambda name: sha256(self.location / name), names)
            for name, digest in zip(names, digests, strict=True):
                expected = self.manifest.files[name]["sha256"]
                if digest != expected:
                    raise ArtifactError(
                        f"{self.location / name} has sha256 {digest[:12]}…, the manifest says "
                        f"{expected[:12]}…; the file was changed. Restore it, or delete the "
                        f"folder {self.location} and run the stage again"
                    )


def open_artifact(location: Location) -> Artifact:
    """Loads the manifest and checks that each file is there with its recorded size.

    Raises:
        ArtifactError: when the manifest is not good, or a file is missing or cut short.
    """
    manifest = load_manifest(location)
    sizes = {entry.name: entry.bytes for entry in location.walk()}
    for name, record in manifest.files.items():
        if sizes.get(name) != record["bytes"]:
            seen = f"has {sizes[name]} bytes" if name in sizes else "is missing"
            raise ArtifactError(
                f"{location / name} {seen}, the manifest says {record['bytes']} bytes. "
                f"Restore it, or delete the folder {location} and run the stage again"
            )
    return Artifact(location, manifest)


def find_artifact(location: Location) -> Artifact | None:
    """The artifact at `location`; None when no manifest was committed there.

    Raises:
        ArtifactError: when there is a manifest but the artifact is not good.
    """
    return open_artifact(location) if (location / FILE_NAME).exists() else None
