"""Models whose linear layers are stored as numbers of fewer bits with scales."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from raymodel.compress.opened import Opened
from raymodel.compress.prune import layer_matrices
from raymodel.errors import SpecError
from raymodel.model.compressed_form import FP8, INT8, Form, form_config, has_int8_layers
from raymodel.model.compressed_linear import find_stacked, put_compressed
from raymodel.model.compressed_numbers import to_numbers
from raymodel.model.initial import Weights
from raymodel.model.int8 import linear_layers, put_int8
from raymodel.model.own import OwnModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.compress.spec import Bits
    from raymodel.tasks.base import Task

GROUPS = (128, 64, 32)
"""Of weights with four bits that share a scale: what vLLM's kernels take (`marlin_utils.py`)."""


def quantised(
    model: Opened, task: Task, bits: Bits, importance: Mapping[str, torch.Tensor]
) -> Opened:
    """The model with the linear layers of its stack in fewer bits; embeddings and head stay.

    Args:
        importance: of four bits, from `find_importance`.

    Raises:
        SpecError: it has none, is a user's own module, or several of its layers are one weight.
    """
    outline = copy.deepcopy(model.outline)
    every = linear_layers(outline)
    names = [name.removesuffix(".weight") for name in layer_matrices(outline)]
    names = [name for name in names if name in every]
    if not names or isinstance(outline, OwnModel):
        raise SpecError(
            f"compress.quantize: a {type(outline).__name__} has no linear layers in a stack, which "
            f"are what is computed in {bits}"
        )
    form = _form(outline, names, bits)
    if has_int8_layers(form, task):
        scale_dtype = torch.float32
        put_int8(outline, names)
    else:
        if stacked := find_stacked(outline):
            raise SpecError(
                f"compress.quantize: {stacked} of a {type(outline).__name__} holds several layers "
                f"in one, such as experts, which are not made of {bits} here; leave it out"
            )
        # In the model's type, in which vLLM has the scales of groups: in another it would round.
        scale_dtype = model.dtype
        put_compressed(outline, names, form, scale_dtype)
    outline.config.quantization_config = form_config(form, {*every} - {*names})
    weights = _NumberWeights(model.weights, names, form, scale_dtype, importance)
    return Opened(outline, weights, model.dtype)


def _form(outline: PreTrainedModel, names: Iterable[str], bits: Bits) -> Form:
    if bits != "int4":
        return FP8 if bits == "fp8" else INT8
    widths = {name: outline.get_parameter(f"{name}.weight").shape[1] for name in names}
    for size in GROUPS:
        if all(width % size == 0 for width in widths.values()):
            return Form("int4", size)
    name, width = next((n, w) for n, w in widths.items() if w % GROUPS[-1])
    raise SpecError(
        f"compress.quantize: {name} has rows of {width}, which are no whole groups of "
        f"{', '.join(map(str, GROUPS[:-1]))} or {GROUPS[-1]}, of which four bits are made; set it "
        "to fp8 or int8"
    )


class _NumberWeights:
    """Weights of a model, of which some are numbers with scales."""

    def __init__(
        self,
        weights: Weights,
        names: Iterable[str],
        form: Form,
        scale_dtype: torch.dtype,
        importance: Mapping[str, torch.Tensor],
    ) -> None:
        self._weights, self._names = weights, frozenset(names)
        self._form, self._scale_dtype, self._importance = form, scale_dtype, importance
        self._made: tuple[str, dict[str, torch.Tensor]] = "", {}
        """Name of a layer, and its tensors that were not asked for yet."""

    def read(self, name: str) -> torch.Tensor:
        layer, _, key = name.rpartition(".")
        if layer not in self._names or key == "bias":
            return self._weights.read(name)
        if layer != self._made[0] or key not in self._made[1]:
            weight = f"{layer}.weight"
            made = to_numbers(
                self._weights.read(weight),
                self._form,
                self._scale_dtype,
                self._importance.get(weight),
            )
            self._made = layer, made
        return self._made[1].pop(key)
