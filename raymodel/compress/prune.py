"""Models with fewer layers, and weights with zeros in the place of the smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from raymodel.compress.opened import Opened
from raymodel.compress.spec import PruneSpec
from raymodel.errors import SpecError
from raymodel.model.layers import depth_of, evenly, shallower

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Task

_FIELD = "compress.prune"


def pruned(model: Opened, spec: PruneSpec, task: Task) -> Opened:
    """The model without what the spec takes out.

    Raises:
        SpecError: it cannot be taken out of this model.
    """
    if spec.keep is None and spec.drop is None:
        return Opened(model.outline, SparseWeights(model, spec), model.dtype)
    try:
        depth = depth_of(model.outline, _FIELD)
    except SpecError as error:
        way = "`magnitude` and `pattern` set weights of any model to zero"
        raise SpecError(f"{error}; {way}") from error
    layers = kept_layers(spec, depth)
    return Opened(*shallower(model.outline, model.weights, layers, task, _FIELD), model.dtype)


def kept_layers(spec: PruneSpec, depth: int) -> list[int]:
    """The numbers of the layers that stay, of a model of so many."""
    if spec.keep is not None:
        if spec.keep >= depth:
            raise SpecError(f"compress.prune.keep is {spec.keep}, and the model has {depth} layers")
        return evenly(spec.keep, depth)
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
