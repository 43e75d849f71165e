"""Run: all that one job has made, under `<storage>/<job name>`."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from raymodel.errors import ArtifactError, StorageError
from raymodel.storage.artifact import Artifact, find_artifact, open_artifact
from raymodel.storage.manifest import FILE_NAME
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location

STAGES = ("prepare", "pretrain", "examples", "finetune", "evaluate", "compress", "serve")
_FINGERPRINT = re.compile(r"[0-9a-f]{8,64}")
# Of a stage that was taken over; relative, so that the storage can move.
_OTHER_RUN = re.compile(r"\.\./\.\./([^/]+)/")
_LOOKUP_THREADS = 16  # hides the latency of object stores
_LOCK_FILE = ".lock"


@dataclass(frozen=True, order=True)
class Run:
    """One job's folder. Picklable; nothing is read before it is asked for."""

    location: Location

    @property
    def name(self) -> str:
        """The job's name."""
        return self.location.name

    def execution(self, stage: str, fingerprint: str) -> Location:
        """Where the stage with this fingerprint writes."""
        return self.location / stage / fingerprint

    def executions(self, stage: str) -> list[Location]:
        """All executions of a stage, complete or not."""
        folder = self.location / stage
        return [
            folder / entry.name
            for entry in folder.list()
            if entry.is_dir and _FINGERPRINT.fullmatch(entry.name)
        ]

    def stages(self) -> list[str]:
        """The stages that were started or taken over at least once, in the order of the data."""
        names = [e.name for e in self.location.list() if e.is_dir and self._has_stage(e.name)]
        return sorted(names, key=lambda n: (STAGES.index(n) if n in STAGES else len(STAGES), n))

    def _has_stage(self, name: str) -> bool:
        return bool(self.executions(name)) or (self.location / name / "latest").exists()

    def latest(self, stage: str) -> Artifact | None:
        """The newest complete artifact of a stage; None when there is none yet.

        Raises:
            ArtifactError: when the artifact that `latest` names is not good, or is gone.
        """
        location = self.latest_location(stage)
        if location is None:
            return None
        maker = run_of(location)
        if maker != self and not (location / FILE_NAME).exists():
            raise ArtifactError(
                f"{self.location / stage} was made by the run {maker.name!r}, and {location} is "
                f"gone; run the job {self.name!r} again, which makes it anew"
            )
        return open_artifact(location)

    def latest_location(self, stage: str) -> Location | None:
        """Where that lies: in this run, or in the one that it was taken over from."""
        pointer = self.location / stage / "latest"
        if not pointer.exists():
            return None
        folder, _, fingerprint = pointer.read_text().strip().rpartition("/")
        match = _OTHER_RUN.match(folder)
        return (Run(self.location.parent / match[1]) if match else self).execution(
            stage, fingerprint
        )

    def set_latest(self, stage: str, fingerprint: str, maker: Run | None = None) -> None:
        """Makes an execution the stage's newest. It must be complete.

        Args:
            maker: the run of the same storage that it lies in; this one when None.
        """
        is_own = maker is None or maker == self
        folder = "" if is_own else f"../../{maker.name}/{stage}/"  # type: ignore[union-attr]
        _point(self.location / stage / "latest", folder + fingerprint)

    def best(self) -> Artifact | None:
        """The promoted model; None when none was promoted yet.

        Raises:
            ArtifactError: when the artifact that `best` names is not good.
        """
        named = self.best_name()
        if named is None:
            return None
        stage, _, fingerprint = named.partition("/")
        return open_artifact(self.execution(stage, fingerprint))

    def best_name(self) -> str | None:
        """What the pointer to it says, `STAGE/FINGERPRINT`: one small read."""
        pointer = self.location / "best"
        return pointer.read_text().strip() if pointer.exists() else None

    def set_best(self, artifact: Artifact) -> None:
        """Promotes a model artifact of this run.

        Raises:
            ArtifactError: when the artifact belongs to another run.
        """
        if artifact.location != self.execution(artifact.stage, artifact.fingerprint):
            raise ArtifactError(
                f"{artifact.location} is not part of the run {self.location}; only a run's own "
                "artifact can be its best. Point `serve.model` at the other run instead"
            )
        _point(self.location / "best", f"{artifact.stage}/{artifact.fingerprint}")


def run_of(location: Location) -> Run:
    """The run that an execution lies in."""
    return Run(location.parent.parent)


def artifact_text(artifact: Artifact, run: Run) -> str:
    """Its fingerprint, and where it lies unless that is this run."""
    maker = run_of(artifact.location)
    return artifact.fingerprint + ("" if maker == run else f", made by the run {maker.name}")


def find_in_other_runs(run: Run, stage: str, fingerprint: str) -> Artifact | None:
    """A complete artifact of this fingerprint that another run of the same storage holds.

    What is not complete there is left alone: it is the work of whoever makes it.
    """

    def find(other: Run) -> Artifact | None:
        # A damaged one is none, and who made it is told by its own job. Nor is another user's.
        with suppress(ArtifactError, PermissionError):
            return find_artifact(other.execution(stage, fingerprint))
        return None

    storage = run.location.parent
    others = [Run(storage / e.name) for e in storage.list() if e.is_dir and e.name != run.name]
    with ThreadPoolExecutor(_LOOKUP_THREADS) as pool:
        return next((found for found in pool.map(find, others) if found), None)


def _point(pointer: Location, to: str) -> None:
    with_retries(lambda: pointer.write_text(to + "\n"), f"writing {pointer}")


def list_runs(storage: Location) -> list[Run]:
    """All runs below a storage that this user may read, by name."""
    runs = [Run(storage / entry.name) for entry in storage.list() if entry.is_dir]
    return [run for run in runs if _has_stages(run)]


def _has_stages(run: Run) -> bool:
    with suppress(PermissionError):
        return bool(run.stages())
    return False


def find_run_around(folder: Location) -> Run | None:
    """The run that holds this folder of a stage or of an execution; None when none does."""
    for stage in (folder, folder.parent):
        if stage.name in STAGES and _has_stages(run := Run(stage.parent)):
            return run
    return None


def resolve_artifact(
    reference: str, storage: Location, base: Path | None = None
) -> Artifact | None:
    """The artifact that a job file names.

    Args:
        reference: `RUN/STAGE` (its newest), `RUN/best`, or the URI of an artifact's folder.
        storage: where runs are looked up.
        base: where relative paths start; the current directory when None.

    Returns:
        None when the reference names neither a run's artifact nor an artifact's folder (it may
        still be something else, such as a Hugging Face folder).

    Raises:
        ArtifactError: when it names an artifact that is not good.
    """
    match = re.fullmatch(r"([a-z0-9][a-z0-9._-]*)/([a-z]+)", reference)
    if match:
        run = Run(storage / match[1])
        artifact = run.best() if match[2] == "best" else run.latest(match[2])
        if artifact is not None:
            return artifact
    return find_artifact(Location.parse(reference, base))


@contextmanager
def lock_run(run: Run) -> Iterator[None]:
    """Keeps a second process from running the same job at the same time.

    On local disks this is a lock of the operating system, which ends with the process however it
    ends. Object stores have no such lock: there, nothing is checked, and two runs of one job at a
    time must be avoided by who starts them (`raymodel submit` does, by its submission id).

    Raises:
        StorageError: when another process holds the lock; names its process id.
    """
    if not run.location.is_local:
        yield
        return
    path = run.location.local_path / _LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        if not _take_lock(file):
            file.seek(0)
            raise StorageError(
                f"the job {run.name!r} is already being run by process {file.read().strip()} "
                f"(lock {path}); one process runs a job at a time. Wait for it, end it, or give "
                "this job another `name`"
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # the empty file stays: deleting it would race with the next holder


def _take_lock(file: IO[str]) -> bool:
    # More than one try, because `find_lock_holder` holds the lock for an instant when it looks.
    for wait_s in (0.05, 0.05, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(wait_s)
    return False


def find_lock_holder(run: Run) -> int | None:
    """The process id of who runs this job now; None when nobody does, or on object stores."""
    if not run.location.is_local:
        return None
    path = run.location.local_path / _LOCK_FILE
    if not path.exists():
        return None
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read().strip() or 0)
        return None
