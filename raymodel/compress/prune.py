"""Models with fewer layers, and weights with zeros in the place of the smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from raymodel.compress.opened import Opened
from raymodel.compress.spec import PruneSpec
from raymodel.errors import SpecError
from raymodel.model.build import BUILD_ERRORS, first_line, outline_model
from raymodel.model.initial import Weights
from raymodel.model.own import OwnModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.tasks.base import Task

_DEPTH = "num_hidden_layers"


def pruned(model: Opened, spec: PruneSpec, task: Task) -> Opened:
    """The model without what the spec takes out.

    Raises:
        SpecError: it cannot be taken out of this model.
    """
    if spec.keep is None and spec.drop is None:
        return Opened(model.outline, SparseWeights(model, spec), model.dtype)
    layers = kept_layers(spec, _depth(model.outline))
    outline = _shallower(model.outline, layers, task)
    weights = _Renamed(model.weights, _old_names(model.outline, outline, layers))
    return Opened(outline, weights, model.dtype)


# ---- layers --------------------------------------------------------------------------------------


def kept_layers(spec: PruneSpec, depth: int) -> list[int]:
    """The numbers of the layers that stay, of a model of so many."""
    if spec.keep is not None:
        if spec.keep >= depth:
            raise SpecError(f"compress.prune.keep is {spec.keep}, and the model has {depth} layers")
        last, steps = depth - 1, max(spec.keep - 1, 1)
        return [(place * last + steps // 2) // steps for place in range(spec.keep)]
    assert spec.drop is not None, "the caller looked"
    beyond = [layer for layer in spec.drop if layer >= depth]
    if beyond:
        raise SpecError(
            f"compress.prune.drop names the layer {beyond[0]}, and the model has {depth}, counted "
            "from 0"
        )
    kept = [layer for layer in range(depth) if layer not in spec.drop]
    if not kept:
        raise SpecError(f"compress.prune.drop names all {depth} layers of the model; keep some")
    return kept


def _depth(model: PreTrainedModel) -> int:
    config = model.config
    depth = None if isinstance(model, OwnModel) else getattr(config, _DEPTH, None)
    if not isinstance(depth, int) or config.is_encoder_decoder:
        raise SpecError(
            f"compress.prune: a {type(model).__name__} is not one stack of layers, of which some "
            "can be left out; `magnitude` and `pattern` set weights of any model to zero"
        )
    return depth


def _shallower(model: PreTrainedModel, layers: list[int], task: Task) -> PreTrainedModel:
    """The outline of the same model with these layers alone."""
    config: PretrainedConfig = model.config
    depth, fields = getattr(config, _DEPTH), config.to_dict()
    for name, value in fields.items():
        if "layer" in name and isinstance(value, list | tuple) and len(value) == depth:
            fields[name] = [value[layer] for layer in layers]  # what each layer is
    fields[config.attribute_map.get(_DEPTH, _DEPTH)] = len(layers)
    try:
        outline = outline_model(type(config).from_dict(fields), task)
    except BUILD_ERRORS as error:
        raise SpecError(
            f"compress.prune: transformers builds no {config.model_type} model of {len(layers)} "
            f"layers: {first_line(error)}"
        ) from error
    if outline.can_generate():
        outline.generation_config = model.generation_config
    return outline


def _old_names(old: PreTrainedModel, new: PreTrainedModel, layers: list[int]) -> dict[str, str]:
    """Name of a weight in the new model → its name in the old one."""
    before = {name: len(m) for name, m in old.named_modules() if isinstance(m, nn.ModuleList)}
    after = {name: len(m) for name, m in new.named_modules() if isinstance(m, nn.ModuleList)}
    stacks = [name for name, count in after.items() if before.get(name) not in (None, count)]
    shapes = {name: tensor.shape for name, tensor in old.state_dict().items()}
    names = {name: _old_name(name, stacks, layers) for name in new.state_dict()}
    wrong = [n for n, t in new.state_dict().items() if shapes.get(names[n]) != t.shape]
    if not stacks or wrong:
        what = wrong[0] if wrong else "the stack of layers"
        raise SpecError(
            f"compress.prune: the layers of a {type(old).__name__} are not alike ({what}), so that "
            "none can be left out"
        )
    return names


def _old_name(name: str, stacks: list[str], layers: list[int]) -> str:
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


# ---- zeros ---------------------------------------------------------------------------------------


class SparseWeights:
    """Weights in whose matrices the smallest are zero.

    Of the layers alone: embeddings and heads lose most (as in arXiv:2301.00774).
    """

    def __init__(self, model: Opened, spec: PruneSpec) -> None:
        """Reads nothing yet.

        Raises:
            SpecError: the model has no matrix that it fits.
        """
        self._weights, self._spec = model.weights, spec
        self._is_turned = layer_matrices(model.outline)
        if not self._is_turned:
            raise SpecError(
                f"compress.prune: a {type(model.outline).__name__} has no layers with matrices"
            )
        if spec.pattern is not None:
            self._check_widths(model.outline)

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer, whole, on the CPU."""
        weight = self._weights.read(name)
        if name not in self._is_turned:
            return weight
        if self._spec.pattern is not None:
            return _two_of_four(weight, is_turned=self._is_turned[name])
        assert self._spec.magnitude is not None, "the spec has one of them"
        return _without_smallest(weight, self._spec.magnitude)

    def _check_widths(self, model: PreTrainedModel) -> None:
        for name, is_turned in self._is_turned.items():
            rows, columns = model.get_parameter(name).shape
            width = rows if is_turned else columns
            if width % 4:
                raise SpecError(
                    f"compress.prune.pattern: {name} has rows of {width}, which are no whole fours"
                )


def layer_matrices(model: PreTrainedModel) -> dict[str, bool]:
    """Names of the matrices in the layers of a model → whether their inputs are their rows."""
    found: dict[str, bool] = {}
    for name, module in model.named_modules():
        in_layer = any(part.isdecimal() for part in name.split("."))
        if in_layer and isinstance(module, nn.Linear | Conv1D):
            found[f"{name}.weight"] = isinstance(module, Conv1D)
    return found


def _without_smallest(weight: torch.Tensor, share: float) -> torch.Tensor:
    count = round(share * weight.numel())
    smallest = torch.topk(weight.float().abs().flatten(), count, largest=False).indices
    return weight.flatten().index_fill(0, smallest, 0.0).view_as(weight)


def _two_of_four(weight: torch.Tensor, *, is_turned: bool) -> torch.Tensor:
    rows = weight.t().contiguous() if is_turned else weight
    fours = rows.reshape(-1, 4)
    smallest = torch.topk(fours.float().abs(), 2, largest=False).indices
    sparse = fours.scatter(1, smallest, 0.0).view_as(rows)
    return sparse.t().contiguous() if is_turned else sparse
