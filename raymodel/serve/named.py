"""The model that a command names: of a run, of a folder, or of a package."""

from __future__ import annotations

from pathlib import Path

from raymodel.storage.hub_place import HubPlace, is_on_hub
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.train.base import BaseModel, base_of, resolve_base


def find_named(reference: str, storage: Location) -> tuple[str, BaseModel]:
    """A name for the model, and where it is.

    Args:
        reference: a run's name or folder, whose best model it is; `RUN/STAGE` or `RUN/best`; a
            Hugging Face folder; `hf://OWNER/NAME[@REVISION]`; or `python:PACKAGE/path`.
        storage: where runs are looked up by their names.

    Raises:
        ArtifactError: there is no such model.
        SourceError: the package that should hold it is not installed.
    """
    run = find_run(reference, storage)
    if run is not None:
        best = run.best()
        assert best is not None, run.location
        return run.location.name, base_of(best)
    model = resolve_base(reference, storage, Path.cwd())
    if model.artifact is not None:
        return model.artifact.manifest.job_name, model
    if is_on_hub(model.location.uri):
        return HubPlace.parse(model.location.uri).name, model
    return model.location.name, model


def find_run(reference: str, storage: Location) -> Run | None:
    """The run with a promoted model that a command names, by its name or its folder."""
    if reference.startswith("python:") or is_on_hub(reference):
        return None
    for folder in (Location.parse(reference), storage / reference):
        if (folder / "best").exists():
            return Run(folder)
    return None
