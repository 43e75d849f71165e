"""The application for what runs Ray Serve itself: KubeRay's RayService, `serve deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodel.errors import ArtifactError, SpecError
from raymodel.job.pins import pin_job
from raymodel.serve.filters.spec import classifiers_of
from raymodel.serve.follow import find_followed
from raymodel.spec.load import load_job
from raymodel.storage.artifact import Artifact
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.train.base import BaseModel, base_of, resolve_base

if TYPE_CHECKING:
    from ray.serve import Application

    from raymodel.job.spec import Job

ARGUMENTS = ("job", "set")


def application(arguments: dict[str, Any]) -> Application:
    """Builds what `import_path: raymodel.serve.deploy:application` names in a Serve config.

    Args:
        arguments: `job`, the path of a job file with a `serve:` section, and `set`, overrides of
            it such as `storage=/storage/runs`.

    Raises:
        SpecError: the job file, or the arguments, are wrong.
        ArtifactError: the job has no promoted model yet, or it cannot be served.
    """
    from raymodel.serve.run import build_application

    unknown = sorted(set(arguments) - set(ARGUMENTS))
    if unknown or "job" not in arguments:
        raise SpecError(
            f"the arguments are {sorted(arguments)}; give `job`, the path of a job file, and "
            "perhaps `set`, a list of FIELD=VALUE"
        )
    job = load_job(arguments["job"], arguments.get("set", [])).job
    if job.serve is None:
        raise SpecError(f"{arguments['job']} has no `serve:` section; add one, even `serve: {{}}`")
    storage = Location.parse(job.storage)
    job = pin_job(job, Run(storage / job.name)).job
    assert job.serve is not None, "pinning leaves sections as they are"
    model = find_model(job, Path.cwd())

    def found(name: str) -> Artifact | Location:
        base = resolve_base(name, storage, Path.cwd())
        return base.artifact or base.location

    return build_application(
        job.serve,
        model.artifact or model.location,
        job_name=job.name,
        cluster=job.cluster,
        follows=find_followed(job.serve, storage, job.name),
        members=[found(name) for name in job.serve.ensemble],
        embedder=found(job.serve.documents.embedder) if job.serve.documents else None,
        classifiers=[found(each.model) for each in classifiers_of(job.serve.filters)],
        draft=found(job.serve.draft.model) if job.serve.draft else None,
    )


def find_model(job: Job, base_dir: Path) -> BaseModel:
    """The model that a job serves: the one that `serve.model` names, else its run's best.

    Args:
        job: has a `serve:` section.
        base_dir: where relative paths start.

    Raises:
        ArtifactError: there is no such model.
    """
    storage = Location.parse(job.storage)
    if job.serve is not None and job.serve.model:
        return resolve_base(job.serve.model, storage, base_dir)
    best = Run(storage / job.name).best()
    if best is None:
        raise ArtifactError(
            f"{storage / job.name} has no promoted model; run the job to its end first, or name "
            "one in serve.model"
        )
    return base_of(best)
