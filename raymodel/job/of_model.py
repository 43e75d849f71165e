"""`raymodel serve`: the job that serves a model which lies there, as its file would say it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from raymodel.serve.named import find_named, find_run
from raymodel.spec.load import LoadedJob, load_text
from raymodel.storage.uri import Location

_LONGEST = 63
"""Characters of a job's name."""


def serving_job(reference: str, storage: str, overrides: Sequence[str] = ()) -> LoadedJob:
    """A job with nothing but `serve:`, of the model that a command names.

    Its own folder is `serve-NAME` in the storage. A run is served as `RUN/best`, so that
    `serve.watch: best` follows it.

    Args:
        reference: a run's name or folder, whose promoted model it is; `RUN/STAGE`; a Hugging Face
            folder, on a disk or in a bucket; `hf://OWNER/NAME[@REVISION]`; or
            `python:PACKAGE/path`.
        storage: where runs are looked up by their names.
        overrides: `--set` texts, such as `serve.port=8080`.

    Raises:
        ArtifactError: there is no such model.
        SourceError: the package that should hold it is not installed.
        SpecError: what the overrides say cannot be.
    """
    place = Location.parse(storage)
    run = find_run(reference, place)
    if run is not None:
        name, model, place = run.location.name, f"{run.location.name}/best", run.location.parent
    else:
        name, found = find_named(reference, place)
        is_package = reference.startswith("python:")
        model = reference if is_package else str(found.location)
    said = {
        "name": _job_name(name),
        "storage": str(place),
        "serve": {"model": model, "name": name},
    }
    return load_text(yaml.safe_dump(said), Path(f"raymodel serve {reference}"), overrides)


def _job_name(name: str) -> str:
    """As `Job.name` may be."""
    return re.sub(r"[^a-z0-9._-]+", "-", f"serve-{name.lower()}")[:_LONGEST]
