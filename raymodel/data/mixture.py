"""A mixture: the dataset artifacts of one training, and how often the rows of each are visited.

A single dataset is a mixture of one. `data/shard.py` opens a mixture as one `Dataset`, whose rows
count through the artifacts in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raymodel.data.spec import DatasetSpec
from raymodel.errors import ArtifactError, MissingArtifactError
from raymodel.storage.artifact import Artifact
from raymodel.storage.registry import resolve_artifact
from raymodel.storage.uri import Location


class WeightedArtifact(NamedTuple):
    """One dataset of a mixture. Picklable."""

    artifact: Artifact
    weight: float = 1.0
    """Visits of each row in one epoch of the mixture, times the weight of the row's source."""


Mixture = tuple[WeightedArtifact, ...]


def mixture_of(artifact: Artifact) -> Mixture:
    """A dataset alone."""
    return (WeightedArtifact(artifact),)


def resolve_mixture(
    specs: Sequence[DatasetSpec], storage: Location, base_dir: Path | None = None
) -> Mixture:
    """The datasets that `pretrain.data` names.

    Args:
        storage: where runs are looked up.
        base_dir: where relative paths start; the current directory when None.

    Raises:
        ArtifactError: one is missing, or no dataset, or they cannot be mixed.
    """
    mixture = tuple(
        WeightedArtifact(_resolve(spec.path, storage, base_dir), spec.weight) for spec in specs
    )
    check_mixture(mixture)
    return mixture


def inputs_of(mixture: Mixture) -> dict[str, Artifact]:
    """The artifacts by role: `data`, then `data-2`, `data-3`, … in their order; none of none."""
    return {
        "data" if place == 1 else f"data-{place}": artifact
        for place, (artifact, _) in enumerate(mixture, start=1)
    }


def check_mixture(mixture: Mixture) -> None:
    """Checks, by the manifests alone, that the rows of all can stand in one batch.

    Raises:
        ArtifactError: says which two differ, and in what.
    """
    first = mixture[0].artifact
    seen: dict[str, Location] = {}
    for artifact, _ in mixture:
        check_is_dataset(artifact.location, artifact.content)
        if artifact.content.get("task") is not None:
            raise ArtifactError(
                f"{artifact.location} holds labelled examples; pretraining reads plain rows. Give "
                "a dataset that `prepare` wrote"
            )
        _check_alike(first, artifact)
        if artifact.fingerprint in seen:
            raise ArtifactError(
                f"{seen[artifact.fingerprint]} and {artifact.location} are the same dataset; "
                "each may be in a mixture once. Raise its `weight` instead"
            )
        seen[artifact.fingerprint] = artifact.location


def check_is_dataset(location: Location, content: Mapping[str, Any]) -> None:
    """Raises ArtifactError when the manifest's content is not that of a dataset."""
    if not isinstance(content.get("splits"), dict):
        raise ArtifactError(
            f"{location} is not a dataset: its manifest has no splits. "
            "Give the artifact that `prepare` wrote"
        )
    if "processor" not in content:
        raise ArtifactError(
            f"{location} was prepared by an older raymodel, in another form; prepare it again"
        )


def _resolve(reference: str, storage: Location, base_dir: Path | None) -> Artifact:
    artifact = resolve_artifact(reference, storage, base_dir)
    if artifact is None:
        raise MissingArtifactError(
            f"pretrain.data names {reference!r}, and no complete dataset lies there; give "
            "RUN/prepare or the folder of a prepare artifact"
        )
    return artifact


def _check_alike(first: Artifact, other: Artifact) -> None:
    differences, fixes = [], []
    tokenizers = [artifact.content["processor"] for artifact in (first, other)]
    modalities = [each["modality"] for each in tokenizers]
    if "image" in modalities:
        if tokenizers[0]["sha256"] != tokenizers[1]["sha256"]:
            raise ArtifactError(
                f"{first.location} and {other.location} are of {' and '.join(modalities)} that a "
                "model is given in different ways; the datasets of a mixture must be of one kind, "
                "and images of one size and normalisation. Prepare the second again with the "
                "`image` of the first"
            )
        return
    if tokenizers[0]["sha256"] != tokenizers[1]["sha256"]:
        words = [f"{t['sha256'][:12]}… of {t['vocab_size']:,} tokens" for t in tokenizers]
        differences.append(f"the tokenizers ({' and '.join(words)})")
        fixes.append(f"`tokenizer: {{load: {first.location / tokenizers[0]['folder']}}}`")
    lengths = [artifact.content["sequence_length"] for artifact in (first, other)]
    if lengths[0] != lengths[1]:
        differences.append(f"sequence_length ({lengths[0]} and {lengths[1]})")
        fixes.append(f"`sequence_length: {lengths[0]}`")
    if differences:
        raise ArtifactError(
            f"{first.location} and {other.location} differ in {' and in '.join(differences)}; "
            "the datasets of a mixture must have the same tokenizer and sequence_length. Prepare "
            f"the second again with {' and '.join(fixes)}"
        )
