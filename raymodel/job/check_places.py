"""Checks of the places that a job names: how they are written; and of what is read on the Hugging
Face Hub, that it is there and may be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from raymodel.errors import StorageError, UserError
from raymodel.job.pins import model_places, places_on_hub, source_places
from raymodel.job.spec import Job
from raymodel.spec.document import Path
from raymodel.spec.problems import Problem
from raymodel.storage.hub import check_no_url_of_hub
from raymodel.storage.hub_place import HubPlace, check_can_ask, is_on_hub
from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location


def check_places(job: Job) -> Iterator[Problem]:
    """Each place that the job names is written as one: a path, or a URI of a known scheme."""
    may_be_on_hub = (*source_places(job), *model_places(job))
    elsewhere = ((path, place) for path, place in may_be_on_hub if not is_on_hub(place))
    for path, place in (*elsewhere, *_places(job)):
        try:
            check_no_url_of_hub(place)
            if not place.startswith("python:"):
                Location.parse(place)
        except UserError as error:
            yield Problem(path, str(error))


def check_hub(job: Job) -> Iterator[Problem]:
    """What is to be read on the Hugging Face Hub is written as that, is there and may be read; if
    the Hub does not answer, that is told once."""
    found = dict[HubPlace, Path]()
    for path, place, kind in places_on_hub(job):
        try:
            found.setdefault(HubPlace.parse(place, kind), path)
        except UserError as error:
            yield Problem(path, str(error))
    for first in [*found][:1]:
        try:
            check_can_ask(first)
        except UserError as error:
            yield Problem(found.pop(first), str(error))
            return
    told = set[str]()
    for each, path in found.items():
        if each.branch not in told:
            told.add(each.branch)
            if why := _why_not_read(each):
                yield Problem(path, why)


def _why_not_read(place: HubPlace) -> str | None:
    """What the Hub has against it; asked once, as a run asks again, with patience."""
    from raymodel.storage.hub_ask import find_commit  # imports the client

    try:
        with suppress(OSError), one_try():
            find_commit(place)
    except (UserError, StorageError) as error:
        return str(error)
    return None


def _places(job: Job) -> Iterator[tuple[Path, str]]:
    """Those where nothing of the Hub is read."""
    yield ("storage",), job.storage
    for file in job.finetune.task.files if job.finetune else ():
        yield ("finetune", "task"), file
    for i, dataset in enumerate(job.pretrain.datasets if job.pretrain else ()):
        is_alone = job.pretrain is not None and isinstance(job.pretrain.data, str)
        yield ("pretrain", "data", *(() if is_alone else (i, "path"))), dataset.path
