"""Models of fewer layers, with the weights of those that stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raymodel.errors import SpecError
from raymodel.model.build import BUILD_ERRORS, first_line, outline_model
from raymodel.model.initial import Weights
from raymodel.model.own import OwnModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.tasks.base import Task

DEPTH = "num_hidden_layers"


def evenly(count: int, depth: int) -> list[int]:
    """The numbers of so many of a model's layers: the first, the last, and those evenly between, as
    DistilBERT begins (arXiv:1910.01108)."""
    last, steps = depth - 1, max(count - 1, 1)
    return [(place * last + steps // 2) // steps for place in range(count)]


def depth_of(model: PreTrainedModel, field: str) -> int:
    """How many layers a model has.

    Args:
        field: of the job, for the message.

    Raises:
        SpecError: it is not one stack of them.
    """
    config = model.config
    depth = None if isinstance(model, OwnModel) else getattr(config, DEPTH, None)
    if not isinstance(depth, int) or config.is_encoder_decoder:
        raise SpecError(
            f"{field}: a {type(model).__name__} is not one stack of layers, of which some can be "
            "left out"
        )
    return depth


def begin_with_layers(
    teacher: PreTrainedModel, weights: Weights, count: int, task: Task
) -> tuple[PreTrainedModel, Weights]:
    """The outline of a student that is some layers of its teacher, and its first weights.

    Raises:
        SpecError: the teacher has no more layers than that, or none that can be left out.
    """
    field = "distill.student"
    depth = depth_of(teacher, field)
    if count >= depth:
        raise SpecError(
            f"{field}.layers is {count}, and the teacher has {depth} layers; give fewer"
        )
    return shallower(teacher, weights, evenly(count, depth), task, field)


def shallower(
    model: PreTrainedModel, weights: Weights, layers: Sequence[int], task: Task, field: str
) -> tuple[PreTrainedModel, Weights]:
    """The outline of the same model with these layers alone, and its weights.

    Args:
        model: on the meta device.
        weights: of it.
        layers: the numbers of those that stay.
        field: of the job, for the message.

    Raises:
        SpecError: none can be left out of this model.
    """
    outline = _outline(model, layers, task, field)
    return outline, _Renamed(weights, _old_names(model, outline, layers, field))


def _outline(
    model: PreTrainedModel, layers: Sequence[int], task: Task, field: str
) -> PreTrainedModel:
    config: PretrainedConfig = model.config
    depth, fields = getattr(config, DEPTH), config.to_dict()
    for name, value in fields.items():
        if "layer" in name and isinstance(value, list | tuple) and len(value) == depth:
            fields[name] = [value[layer] for layer in layers]  # what each layer is
    fields[config.attribute_map.get(DEPTH, DEPTH)] = len(layers)
    return outline_smaller(model, fields, task, field, f"model of {len(layers)} layers")


def outline_smaller(
    model: PreTrainedModel, fields: dict[str, Any], task: Task, field: str, what: str
) -> PreTrainedModel:
    """A model of other sizes, which ends its answers as this one does.

    Args:
        fields: its configuration.
        field: of the job, for the message.
        what: would be built, in words.

    Raises:
        SpecError: it cannot be built.
    """
    config: PretrainedConfig = model.config
    try:
        outline = outline_model(type(config).from_dict(fields), task)
    except BUILD_ERRORS as error:
        raise SpecError(
            f"{field}: transformers builds no {config.model_type} {what}: {first_line(error)}"
        ) from error
    if outline.can_generate():
        outline.generation_config = model.generation_config
    return outline


def _old_names(
    old: PreTrainedModel, new: PreTrainedModel, layers: Sequence[int], field: str
) -> dict[str, str]:
    """Name of a weight in the new model → its name in the old one."""
    before = {name: len(m) for name, m in old.named_modules() if isinstance(m, nn.ModuleList)}
    after = {name: len(m) for name, m in new.named_modules() if isinstance(m, nn.ModuleList)}
    stacks = [name for name, count in after.items() if before.get(name) not in (None, count)]
    shapes = {name: tensor.shape for name, tensor in _tensors(old).items()}
    names = {name: _old_name(name, stacks, layers) for name in _tensors(new)}
    wrong = [n for n, t in _tensors(new).items() if shapes.get(names[n]) != t.shape]
    if not stacks or wrong:
        what = wrong[0] if wrong else "the stack of layers"
        raise SpecError(
            f"{field}: the layers of a {type(old).__name__} are not alike ({what}), so that none "
            "can be left out"
        )
    return names


def _tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Those that are in no file too, such as the frequencies of a rotary embedding."""
    return {**model.state_dict(), **dict(model.named_buffers())}


def _old_name(name: str, stacks: Sequence[str], layers: Sequence[int]) -> str:
    for stack in stacks:
        if name.startswith(f"{stack}."):
            number, _, rest = name.removeprefix(f"{stack}.").partition(".")
            return f"{stack}.{layers[int(number)]}.{rest}"
    return name


class _Renamed:
    """The weights of a model under the names of another."""

    def __init__(self, weights: Weights, names: dict[str, str]) -> None:
        self._weights, self._names = weights, names

    def read(self, name: str) -> torch.Tensor:
        return self._weights.read(self._names[name])
