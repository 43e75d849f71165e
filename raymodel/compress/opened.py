"""A whole model of a folder: its outline on the meta device, and its weights one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raymodel.errors import ArtifactError
from raymodel.model.initial import InitialWeights, Weights
from raymodel.model.load import check_folder, is_quantised, open_model
from raymodel.model.stored import StoredWeights
from raymodel.storage.local import near
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.modality.base import Processor
    from raymodel.tasks.base import Task

_NOT_COMPUTED_WITH = (
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
)
"""Fields of a configuration that say where weights come from, and how they are stored."""


@dataclass(frozen=True)
class Opened:
    """A model to be written or read; nothing but the headers of its files is in memory."""

    outline: PreTrainedModel
    weights: Weights
    dtype: torch.dtype
    """Of the weights in the files."""


def open_whole(folder: Location, task: Task) -> Opened:
    """The model of a folder, head and all.

    Raises:
        ArtifactError: as `check_folder`; or its weights are quantised.
    """
    outline = check_folder(folder, task)
    if outline is None or is_quantised(outline.config):
        raise ArtifactError(
            f"{folder} holds quantised weights, which cannot be computed with any further; give "
            "the model that they were made from"
        )
    stored = StoredWeights(folder, outline)
    return Opened(outline, InitialWeights(outline, 0, stored), stored.dtype)


def open_base(folder: Location, tuned: Opened, task: Task) -> StoredWeights:
    """The weights that a model was tuned from; a head may be missing, or be another task's.

    Raises:
        ArtifactError: as `open_model`; or it is another model's base.
    """
    outline, stored = open_model(near(folder), task)
    shapes = _shapes(tuned)
    for name, tensor in outline.state_dict().items():
        if name in stored and shapes.get(name) != tuple(tensor.shape):
            raise ArtifactError(
                f"compress.merge.base, {folder}, is not what the models were tuned from: its "
                f"weight {name} is {_words(tuple(tensor.shape))}, theirs {_words(shapes.get(name))}"
            )
    return stored


def check_alike(
    folders: Sequence[Location], models: Sequence[Opened], processors: Sequence[Processor]
) -> None:
    """Checks that the weights of all models stand for the same.

    Raises:
        ArtifactError: names the first thing that differs.
    """
    first = models[0]
    shapes, config = _shapes(first), _fields(first)
    for folder, model, processor in zip(folders[1:], models[1:], processors[1:], strict=True):
        where = f"{folders[0]} and {folder} cannot be merged:"
        wrong = _first_difference(shapes, _shapes(model))
        if wrong is not None:
            name, one, other = wrong
            raise ArtifactError(
                f"{where} the weight {name} is {_words(one)} in the first and {_words(other)} in "
                "the second; merge models of one architecture, tuned from one base for one task"
            )
        wrong = _first_difference(config, _fields(model))
        if wrong is not None:
            name, one, other = wrong
            raise ArtifactError(
                f"{where} {name} of config.json is {one!r} in the first and {other!r} in the "
                "second; merge models of one architecture, tuned from one base for one task"
            )
        if processors[0].facts() != processor.facts():
            raise ArtifactError(
                f"{where} they read with different {processor.file} files, so that the same input "
                "is other numbers to each; merge models that were tuned from one base"
            )


def _shapes(model: Opened) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.outline.state_dict().items()}


def _fields(model: Opened) -> dict[str, Any]:
    fields = model.outline.config.to_dict()
    return {name: value for name, value in fields.items() if name not in _NOT_COMPUTED_WITH}


def _first_difference(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[str, Any, Any] | None:
    names = dict.fromkeys((*one, *other))
    return next(((n, one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)), None)


def _words(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return "not there"
    return " × ".join(map(str, shape)) or "a single number"
