"""Models with fewer attention heads in each layer: smaller matrices, which every program loads.

Which heads count, rows of training tell: by how much the loss changes, to first order, when what a
head gives is left out (arXiv:1905.10650): |sum over its numbers of value * gradient|, over rows.
A configuration has one number of heads for all layers, so as many go from each.

Letters: B rows, T tokens, I what all heads give together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raymodel.compress.calibrate import Calibration, batch_of, mean_loss
from raymodel.compress.opened import Opened
from raymodel.errors import SpecError
from raymodel.model.gguf import head_size
from raymodel.model.layers import outline_smaller
from raymodel.model.load import load_for_use
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.model.initial import Weights
    from raymodel.tasks.base import Task

_FIELD = "compress.prune.heads"
_HEADS, _SHARED = "num_attention_heads", "num_key_value_heads"


@dataclass(frozen=True, kw_only=True)
class HeadCounts:
    """Of one layer, before and after."""

    heads: int
    shared: int
    """Keys and values, each of which some heads share."""
    kept_heads: int
    kept_shared: int
    size: int
    """Numbers of one head."""

    @property
    def group(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.shared


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """A weight of which a part stays."""

    layer: str
    """The beginning of the names of its layer's weights."""
    dim: int
    is_shared: bool
    """Whether it is cut by keys and values, and not by heads."""


def with_heads(
    model: Opened, count: int, folder: Location, task: Task, calibration: Calibration
) -> Opened:
    """The model with so many heads in each layer.

    Args:
        folder: of the model, which is loaded to be looked at.
        task: as its job said it.

    Raises:
        SpecError: the model has no more heads, or none that can go alone.
    """
    counts = plan_heads(model.outline.config, count)
    outline = _outline(model.outline, counts, task)
    cuts = _find_cuts(model.outline, outline, counts)
    outputs = {c.layer: n.removesuffix(".weight") for n, c in cuts.items() if c.dim == 1}
    with local_folder(folder) as local:
        whole, own = load_for_use(local, task.name, spec=task.spec, dtype=torch.float32)
        scores = head_scores(whole, own, outputs, counts, calibration)
    kept = {layer: choose_heads(each, counts) for layer, each in scores.items()}
    return Opened(outline, _CutWeights(model.weights, cuts, kept, counts), model.dtype)


def plan_heads(config: Any, count: int) -> HeadCounts:
    """What stays of a layer.

    Raises:
        SpecError: the model has no heads, no more than that, or so many cannot stay.
    """
    heads = getattr(config, _HEADS, None)
    if not isinstance(heads, int):
        raise SpecError(f"{_FIELD}: the configuration of a {config.model_type} counts no heads")
    shared = getattr(config, _SHARED, None) or heads
    if count >= heads:
        raise SpecError(f"{_FIELD} is {count}, and a layer of the model has {heads} heads")
    group = heads // shared
    if count % shared == 0:
        kept = shared
    elif count % group == 0:
        kept = count // group
    else:
        able = [n for n in range(1, heads) if n % shared == 0 or n % group == 0]
        raise SpecError(
            f"{_FIELD} is {count}, and of {heads} heads {group} each share keys and values: as "
            f"many of each group stay, or whole groups go; give {', '.join(map(str, able))}"
        )
    return HeadCounts(
        heads=heads, shared=shared, kept_heads=count, kept_shared=kept, size=head_size(config)
    )


def choose_heads(scores_H: torch.Tensor, counts: HeadCounts) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the heads of a layer that stay, and of the keys and values, both in order."""
    by_group = scores_H.view(counts.shared, counts.group)
    firsts = torch.arange(counts.shared)[:, None] * counts.group
    if counts.kept_shared == counts.shared:
        each = counts.kept_heads // counts.shared
        best = by_group.topk(each, dim=1).indices.sort(dim=1).values
        return (firsts + best).flatten(), torch.arange(counts.shared)
    groups = by_group.sum(1).topk(counts.kept_shared).indices.sort().values
    return (firsts[groups] + torch.arange(counts.group)).flatten(), groups


def head_scores(
    model: PreTrainedModel,
    task: Task,
    outputs: Mapping[str, str],
    counts: HeadCounts,
    calibration: Calibration,
) -> dict[str, torch.Tensor]:
    """How much each head counts for the loss. Layer → (H,) fp32

    Args:
        outputs: layer → the module that is given what all of its heads say.
    """
    scores = {layer: torch.zeros(counts.heads) for layer in outputs}

    def add(layer: str, values: torch.Tensor, gradient: torch.Tensor) -> None:
        product = (values * gradient).detach().float()
        by_head = product.reshape(-1, counts.heads, counts.size).sum((0, 2))
        scores[layer] += by_head.abs()

    def hook(layer: str) -> Any:
        def look(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            values_BTI = inputs[0]
            if not values_BTI.requires_grad:  # of the first layer, as no weight asks for any
                values_BTI = values_BTI.detach().requires_grad_()
            told: Any = values_BTI  # `register_hook` has no types
            told.register_hook(lambda gradient: add(layer, values_BTI, gradient))
            return (values_BTI, *inputs[1:])

        return look

    model.requires_grad_(False)
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(hook(layer))
        for layer, name in outputs.items()
    ]
    try:
        for row in calibration.rows():
            loss = mean_loss(model, task, batch_of(model, task, row))
            if loss.requires_grad:  # a row without a target says nothing
                loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for each in hooks:
            each.remove()
    return scores


def _outline(model: PreTrainedModel, counts: HeadCounts, task: Task) -> PreTrainedModel:
    config = model.config
    fields = config.to_dict()
    fields[config.attribute_map.get(_HEADS, _HEADS)] = counts.kept_heads
    if getattr(config, _SHARED, None):
        fields[config.attribute_map.get(_SHARED, _SHARED)] = counts.kept_shared
    fields["head_dim"] = counts.size  # which else follows from the number of heads
    return outline_smaller(model, fields, task, _FIELD, f"of {counts.kept_heads} heads")


def _find_cuts(old: PreTrainedModel, new: PreTrainedModel, counts: HeadCounts) -> dict[str, _Cut]:
    """Name → how a weight is cut, for those that are smaller in the new model."""
    before = {name: tuple(tensor.shape) for name, tensor in old.state_dict().items()}
    of_heads = (counts.heads * counts.size, counts.kept_heads * counts.size)
    of_shared = (counts.shared * counts.size, counts.kept_shared * counts.size)
    cuts: dict[str, _Cut] = {}
    for name, tensor in new.state_dict().items():
        was, now = before[name], tuple(tensor.shape)
        if was == now:
            continue
        [dim, *others] = [d for d, (a, b) in enumerate(zip(was, now, strict=True)) if a != b]
        sizes = (was[dim], now[dim])
        layer = _layer_of(name)
        if others or layer is None or sizes not in (of_heads, of_shared):
            raise SpecError(
                f"{_FIELD}: the heads of a {type(old).__name__} lie in {name} together with other "
                "things, so that none can be taken out; `keep` and `drop` take out layers"
            )
        cuts[name] = _Cut(layer=layer, dim=dim, is_shared=sizes != of_heads)
    if not any(cut.dim == 1 and not cut.is_shared for cut in cuts.values()):
        raise SpecError(
            f"{_FIELD}: the number of heads decides how large each is in a {type(old).__name__}, "
            "so that no folder can say that some are missing; `keep` and `drop` take out layers"
        )
    return cuts


def _layer_of(name: str) -> str | None:
    parts = name.split(".")
    place = next((index for index, part in enumerate(parts) if part.isdecimal()), None)
    return None if place is None else ".".join(parts[: place + 1])


class _CutWeights:
    """The weights of a model, of which those of some heads are left out."""

    def __init__(
        self,
        weights: Weights,
        cuts: Mapping[str, _Cut],
        kept: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        counts: HeadCounts,
    ) -> None:
        self._weights, self._cuts, self._size = weights, cuts, counts.size
        self._kept = kept

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer, whole, on the CPU."""
        weight, cut = self._weights.read(name), self._cuts.get(name)
        if cut is None:
            return weight
        heads = self._kept[cut.layer][cut.is_shared]
        places = (heads[:, None] * self._size + torch.arange(self._size)).flatten()
        return weight.index_select(cut.dim, places)
