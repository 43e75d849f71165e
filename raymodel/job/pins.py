"""The commits of the Hugging Face Hub that a run reads, whatever its branches do meanwhile.

A job names branches, which move. The first start of a run finds the commit of each and keeps it in
the run's folder; from then on all of the run, its fingerprints and manifests among it, has commits
alone. So an attempt that goes on, and another machine, read the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raymodel.errors import ArtifactError, RaymodelError
from raymodel.job.spec import Job
from raymodel.spec.base import Spec
from raymodel.spec.document import Path
from raymodel.storage.hub_place import HubPlace, is_on_hub
from raymodel.storage.registry import Run
from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location

FILE_NAME = "commits.json"
"""In the folder of a run: data set at a branch or tag → its commit."""


@dataclass(frozen=True)
class Pinned:
    """A job that names commits."""

    job: Job
    commits: dict[str, str]
    """Data set at a branch or tag → its commit; of this job and of what its run read before."""
    kept: tuple[HubPlace, ...] = ()
    """The branches and tags of this job whose commits the run had."""

    def keep(self, run: Run) -> None:
        """Writes the commits into the run's folder, which the caller has locked.

        Raises:
            ArtifactError: another process has begun the run with other ones.
        """
        kept = _kept(run)
        for branch, commit in self.commits.items():
            if kept.get(branch, commit) != commit:
                raise ArtifactError(
                    f"{run.location} was begun with commit {kept[branch]} of {branch}, and this "
                    f"process with {commit}: the branch moved between the two. Run the job again"
                )
        if kept != self.commits:
            _file(run).write_json(self.commits)


def pin_job(job: Job, run: Run) -> Pinned:
    """The job with the commits that its run keeps, and those of now for what is new.

    Args:
        job: the checked job.
        run: where commits are kept; nothing is written.

    Raises:
        LocationError: the Hub has no such data set or revision.
        MissingSourceError: there is no network, by the environment.
        StorageError: the Hub refuses to tell, or cannot be asked.
    """
    places = {uri: HubPlace.parse(uri) for _, uri in sources_on_hub(job)}
    moving = {uri: place for uri, place in places.items() if not place.is_pinned}
    if not moving:
        return Pinned(job, {})
    from raymodel.storage.hub_files import find_commit  # imports pyarrow

    commits = _kept(run)
    kept = {place.branch: place for place in moving.values() if place.branch in commits}
    for place in moving.values():
        if place.branch not in commits:
            commits[place.branch] = find_commit(place)
    names = {uri: place.at(commits[place.branch]).uri for uri, place in moving.items()}
    return Pinned(_replaced(job, names), commits, tuple(kept.values()))


def find_moved(pinned: Pinned) -> Iterator[str]:
    """Which branches have other commits than the run keeps, a sentence each. Asks once: who cannot
    be told goes on with what the run has."""
    if not pinned.kept:
        return
    from raymodel.storage.hub_files import find_commit  # imports pyarrow

    for place in pinned.kept:
        with suppress(RaymodelError, OSError), one_try():
            kept, now = pinned.commits[place.branch], find_commit(place)
            if kept != now:
                yield (
                    f"{place.branch} has moved to commit {now[:10]}; this run stays with "
                    f"{kept[:10]}, which it began with. For the newer one give the job another "
                    f"`name`, or write {place.at(now).branch}"
                )


def sources_on_hub(job: Job) -> Iterator[tuple[Path, str]]:
    """Field → what it names on the Hub, of all sources and evaluation sets."""
    for path, place in source_places(job):
        if is_on_hub(place):
            yield path, place


def source_places(job: Job) -> Iterator[tuple[Path, str]]:
    """Field → where a source, or an evaluation set, lies."""
    for stage in ("prepare", "finetune"):
        spec: Any = getattr(job, stage)
        if spec is None:
            continue
        for i, source in enumerate(spec.sources):
            yield (stage, "sources", i, "path"), source.path
        sets = spec.clean.decontaminate.sets if spec.clean.decontaminate else {}
        for name, source in sets.items():
            yield (stage, "clean", "decontaminate", "sets", name, "path"), source.path


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """The same with other names of sources, wherever they stand: what limits or weighs a source
    names it by its path too."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, tuple):
        return tuple(_replaced(each, names) for each in value)
    if isinstance(value, dict):
        return {names.get(key, key): _replaced(each, names) for key, each in value.items()}
    if isinstance(value, Spec):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        new = {name: _replaced(each, names) for name, each in fields.items()}
        changes = {name: each for name, each in new.items() if each != fields[name]}
        return value.model_copy(update=changes) if changes else value
    return value


def _kept(run: Run) -> dict[str, str]:
    file = _file(run)
    return dict(file.read_json()) if file.exists() else {}


def _file(run: Run) -> Location:
    return run.location / FILE_NAME
