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
from raymodel.storage.hub_place import HubPlace, Kind, is_on_hub
from raymodel.storage.registry import Run
from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location

FILE_NAME = "commits.json"
"""In the folder of a run: repository at a branch or tag → its commit."""


@dataclass(frozen=True)
class Pinned:
    """A job that names commits."""

    job: Job
    commits: dict[str, str]
    """Repository at a branch or tag → its commit; of this job and of what its run read before."""
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
        LocationError: the Hub has no such repository or revision.
        MissingSourceError: there is no network, by the environment.
        StorageError: the Hub refuses to tell, or cannot be asked.
    """
    places = {uri: HubPlace.parse(uri, kind) for _, uri, kind in places_on_hub(job)}
    moving = {uri: place for uri, place in places.items() if not place.is_pinned}
    if not moving:
        return Pinned(job, {})
    from raymodel.storage.hub_ask import find_commit  # imports the client

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
    from raymodel.storage.hub_ask import find_commit  # imports the client

    for place in pinned.kept:
        with suppress(RaymodelError, OSError), one_try():
            kept, now = pinned.commits[place.branch], find_commit(place)
            if kept != now:
                yield (
                    f"{place.branch} has moved to commit {now[:10]}; this run stays with "
                    f"{kept[:10]}, which it began with. For the newer one give the job another "
                    f"`name`, or write {place.at(now).branch}"
                )


def places_on_hub(job: Job) -> Iterator[tuple[Path, str, Kind]]:
    """Field, what it names on the Hub, and of what kind that must be."""
    kinds: dict[Kind, Iterator[tuple[Path, str]]] = {
        "dataset": source_places(job),
        "model": model_places(job),
    }
    for kind, places in kinds.items():
        yield from ((path, place, kind) for path, place in places if is_on_hub(place))


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


def model_places(job: Job) -> Iterator[tuple[Path, str]]:
    """Field → where the folder of a model, or of a tokenizer, lies, or which run made it."""
    for stage, reads in (("prepare", job.prepare), ("finetune", job.finetune)):
        if reads and reads.tokenizer and reads.tokenizer.load:
            yield (stage, "tokenizer", "load"), reads.tokenizer.load
    for stage, trains in (("pretrain", job.pretrain), ("finetune", job.finetune)):
        if trains and trains.base:
            yield (stage, "base"), trains.base
        if trains and trains.distill:
            yield (stage, "distill", "teacher"), trains.distill.teacher
    for path, place in _compressed(job):
        yield ("compress", *path), place
    if job.serve and job.serve.model:
        yield ("serve", "model"), job.serve.model
    for i, member in enumerate(job.serve.ensemble if job.serve else ()):
        yield ("serve", "ensemble", i), member
    if job.serve and job.serve.draft:
        yield ("serve", "draft", "model"), job.serve.draft.model
    if job.serve and job.serve.documents:
        yield ("serve", "documents", "embedder"), job.serve.documents.embedder
    for i, each in enumerate(job.serve.filters if job.serve else ()):
        if each.name == "classifier":
            yield ("serve", "filters", i, "model"), each.model


def _compressed(job: Job) -> Iterator[tuple[Path, str]]:
    spec = job.compress
    if spec and spec.model:
        yield ("model",), spec.model
    for i, model in enumerate(spec.merge.models if spec and spec.merge else ()):
        yield ("merge", "models", i), model
    if spec and spec.merge and spec.merge.base:
        yield ("merge", "base"), spec.merge.base


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """The same with other names of places, wherever they stand: what limits or weighs a source
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
