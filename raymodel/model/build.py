"""The outline of a fresh model, from its configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from raymodel.errors import SpecError
from raymodel.modality.base import ModelFields
from raymodel.model.fields import find_wrong_fields
from raymodel.model.own import OwnConfig, outline_own, own_config
from raymodel.model.positions import positions_before
from raymodel.model.presets import OWN, resolve_model
from raymodel.model.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.tasks.base import Task

BUILD_ERRORS = (
    *(OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError),
    # What transformers ends in where a configuration makes no sense.
    *(KeyError, TypeError, AttributeError, ArithmeticError),
)
"""Of transformers, where a configuration or a folder is wrong."""
# Accepted by transformers and folded into other fields, so that they are no fields themselves.
_LEGACY_FIELDS = ("rope_theta", "rope_scaling")


def build_model(
    spec: ModelSpec,
    task: Task,
    needed: ModelFields,
) -> PreTrainedModel:
    """A fresh model on the meta device, in training mode: `materialise` gives it its weights.

    Args:
        needed: what its processor asks of the configuration.

    Raises:
        SpecError: an unknown architecture or configuration field, values that do not fit together,
            or a model that cannot do the task.
    """
    architecture, fields = resolve_model(spec)
    if architecture == OWN:
        return outline_own(own_config(fields, task, needed), task)
    at_least = dict(needed.at_least)
    if "max_position_embeddings" in at_least:
        padding = fields.get("pad_token_id", needed.given.get("pad_token_id"))
        at_least["max_position_embeddings"] += positions_before(architecture, padding)
    for name, least in at_least.items():
        if fields.get(name, least) < least:
            raise SpecError(
                f"model.config.{name} is {fields[name]}, but the data needs {least}; "
                "leave it out, or give at least that"
            )
    known = known_fields(architecture)
    offered = {**at_least, **needed.given}
    given = {
        name: _in_form(architecture, name, value)
        for name, value in offered.items()
        if name in known
    }
    config = build_config(architecture, given | with_arguments(architecture, fields, task))
    return outline_config(config, task)


def _in_form(architecture: str, name: str, value: Any) -> Any:
    """One number for both sides of a square, in the form that the architecture has for them."""
    default = getattr(transformers.AutoConfig.for_model(architecture), name, None)
    is_pair = isinstance(default, list | tuple) and isinstance(value, int)
    return [value, value] if is_pair else value


def with_arguments(architecture: str, fields: dict[str, Any], task: Task) -> dict[str, Any]:
    """Fields of a job's model, and what its task says of those that the architecture has.

    Raises:
        SpecError: the two say different things of one.
    """
    known = known_fields(architecture)
    said = {name: value for name, value in task.model_arguments().items() if name in known}
    for name, value in said.items():
        if fields.get(name, value) != value:
            raise SpecError(
                f"model.config.{name} is {fields[name]!r}, and for {task.name} it is {value!r}; "
                "leave it out"
            )
    return fields | said


def outline_config(config: PretrainedConfig, task: Task) -> PreTrainedModel:
    """The model of a configuration on the meta device.

    Raises:
        SpecError: no model can be built of it, or none that can do the task.
    """
    try:
        task.check_model(config)
    except ValueError as error:
        raise SpecError(str(error)) from error
    if isinstance(config, OwnConfig):
        return outline_own(config, task)
    try:
        return outline_model(config, task)
    except BUILD_ERRORS as error:
        raise SpecError(
            f"model.config: transformers builds no {config.model_type} model as {task.auto_class} "
            f"of it: {first_line(error)}"
        ) from error


def outline_model(config: PretrainedConfig, task: Task) -> PreTrainedModel:
    """A model on the meta device, in training mode, of whatever kind the task needs."""
    if isinstance(config, OwnConfig):
        return outline_own(config, task)
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(task).from_config(config, dtype=torch.float32)
    task.trim(model)
    model.train()
    return model


def build_config(architecture: str, fields: dict[str, Any]) -> PretrainedConfig:
    """The Hugging Face configuration; transformers itself would silently keep unknown fields.

    Raises:
        SpecError: an unknown architecture or field, or values that do not fit together.
    """
    known = known_fields(architecture)
    for name in fields:
        if name not in known:
            raise SpecError(
                f"model.config.{name} is no field of a {architecture} configuration"
                f"{_nearest(name, known)}"
            )
    for name, why in find_wrong_fields(fields):
        raise SpecError(f"model.config.{name}: {why}")
    try:
        return transformers.AutoConfig.for_model(architecture, **fields)
    except BUILD_ERRORS as error:
        raise SpecError(f"model.config: {first_line(error)}") from error


def known_fields(architecture: str) -> set[str]:
    """The fields that a configuration of an architecture has.

    Raises:
        SpecError: there is no such architecture.
    """
    try:
        default = transformers.AutoConfig.for_model(architecture)
    except ValueError as error:
        names = transformers.models.auto.configuration_auto.CONFIG_MAPPING.keys()
        raise SpecError(
            f"there is no architecture {architecture!r} in transformers "
            f"{transformers.__version__}{_nearest(architecture, names)}"
        ) from error
    known = {*default.to_dict(), *default.attribute_map, *_LEGACY_FIELDS, "num_labels"}
    # Where what is written begins: folders of T5 say it, and its configuration has no default.
    return known | ({"decoder_start_token_id"} if default.is_encoder_decoder else set())


def auto_class(task: Task) -> Any:
    return getattr(transformers, task.auto_class)


def first_line(error: Exception) -> str:
    """What transformers says, in a line; of a chain of its validators, what the last one says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, StrictDataclassError):
        return " ".join(lines).rpartition("Error: ")[2]
    if isinstance(error, KeyError):
        return f"it does not know {error}"
    return lines[0] if lines else type(error).__name__


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
