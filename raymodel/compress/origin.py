"""What a model is made of: the artifacts that a job names, and the rows that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from raymodel.data.mixture import Mixture, WeightedArtifact
from raymodel.errors import ArtifactError
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.registry import find_in_other_runs, run_of
from raymodel.storage.uri import Location
from raymodel.train.base import resolve_base


class Rows(NamedTuple):
    """Of whose datasets some rows were held out from a model."""

    examples: Artifact | None
    data: Mixture


def resolve_models(
    references: Sequence[str], storage: Location, base_dir: Path
) -> tuple[Artifact, ...]:
    """The models that `compress` names.

    Raises:
        ArtifactError: one is none of a run, or is named twice.
    """
    found: dict[str, Artifact] = {}
    for reference in references:
        artifact = resolve_base(reference, storage, base_dir).artifact
        if artifact is None:
            raise ArtifactError(
                f"{reference!r} is a folder that no run here has made, so no rows are known that "
                "were held out from it; give the model of a run, as RUN/finetune"
            )
        if artifact.fingerprint in found:
            raise ArtifactError(
                f"{reference!r} is {artifact.location}, which is named before; name each model once"
            )
        found[artifact.fingerprint] = artifact
    return tuple(found.values())


def models_by_role(models: Sequence[Artifact]) -> dict[str, Artifact]:
    """`model`, then `model-2`, `model-3`, … in their order."""
    return {
        "model" if place == 1 else f"model-{place}": artifact
        for place, artifact in enumerate(models, start=1)
    }


def models_in(inputs: Mapping[str, Artifact]) -> list[Artifact]:
    """Those of an execution, in their order."""
    return [artifact for role, artifact in inputs.items() if role.partition("-")[0] == "model"]


def other_examples(models: Sequence[Artifact]) -> list[str]:
    """What may make a merged model look better than it is; nothing where all is well."""
    first = models[0].manifest.parents.get("examples")
    others = [m for m in models if m.manifest.parents.get("examples") != first]
    return [
        f"{model.manifest.job_name}/{model.stage} was tuned on other examples than the first "
        "model: it may have been trained on rows that are measured here. Give all runs the same "
        "sources, holdout and task"
        for model in others
    ]


def rows_of(model: Artifact) -> Rows:
    """The datasets that a model was trained on, by its manifest.

    Of a mixture each counts by its own size, as what weighed more in training is not known here.

    Raises:
        ArtifactError: none of them is in the storage of its run.
    """
    found = {
        role: _find(model, "examples" if role == "examples" else "prepare", fingerprint)
        for role, fingerprint in model.manifest.parents.items()
        if role.partition("-")[0] in ("examples", "data")
    }
    data = tuple(
        WeightedArtifact(artifact)
        for role, artifact in found.items()
        if artifact is not None and role != "examples"
    )
    rows = Rows(found.get("examples"), data)
    if rows == Rows(None, ()):
        raise ArtifactError(
            f"{model.location} was trained on data that is not in its storage any more, so no rows "
            "are known that were held out from it; run the job that made it again"
        )
    return rows


def _find(model: Artifact, stage: str, fingerprint: str) -> Artifact | None:
    run = run_of(model.location)
    own = find_artifact(run.execution(stage, fingerprint))
    return own or find_in_other_runs(run, stage, fingerprint)
