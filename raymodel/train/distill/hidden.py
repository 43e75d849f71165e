"""Matching of hidden states: what layers of a student give, held to what its teacher's give.

Layer i of S is held to layer (i + 1) * D / S of the teacher's D, so the last to the last, through a
matrix of its own that is learnt beside (arXiv:1909.10351, arXiv:1412.6550). The matrices
are modules of the network that is trained, so the optimizer, every ZeRO stage and the checkpoints
have them as they have all others; the model that is written in the end is without them.

Both models are asked by hooks on their layers: the matrices then compute within the student's
forward pass, where ZeRO-3 gathers what is computed with.

Letters: B rows, T tokens or patches, H and K widths of student and teacher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raymodel.errors import SpecError
from raymodel.model.initial import Weights, seeded
from raymodel.model.layers import depth_of
from raymodel.train.network import Network

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Task

_NAME = "distilled_hidden"
_FIELD = "distill.hidden"
_LEAST = 1e-6  # of a mean square that is divided by: a position where the teacher says nothing


def with_projections(network: Network, teacher: PreTrainedModel, seed: int) -> Network:
    """The network with a matrix for each layer, from its width to the teacher's.

    Raises:
        SpecError: one of the two is not one stack of layers of one width.
    """
    depth = depth_of(network.plain, _FIELD)
    if depth > depth_of(teacher, _FIELD):
        raise SpecError(
            f"{_FIELD}: the student has {depth} layers, more than its teacher; leave hidden out"
        )
    width, wanted = _width(network.plain), _width(teacher)
    with torch.device("meta"):
        matrices = [nn.Linear(width, wanted, bias=False) for _ in range(depth)]
    network.module.add_module(_NAME, nn.ModuleList(matrices))
    return replace(network, weights=_WithMatrices(network.weights, network.module, seed))


def _width(model: PreTrainedModel) -> int:
    width = getattr(model.config, "hidden_size", None)
    if not isinstance(width, int):
        raise SpecError(f"{_FIELD}: a {type(model).__name__} has layers of several widths")
    return width


@dataclass(frozen=True)
class _WithMatrices:
    """The first weights of a network, and those of its matrices."""

    weights: Weights
    network: nn.Module
    seed: int

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer, whole, on the CPU."""
        if not name.startswith(f"{_NAME}."):
            return self.weights.read(name)
        rows, columns = self.network.get_parameter(name).shape
        if rows == columns:
            return torch.eye(rows)  # as a student that is layers of its teacher begins
        with seeded(self.seed, name):
            drawn = torch.randn(rows, columns)
        return drawn / math.sqrt(columns)


class Hidden:
    """What the layers of both models gave in their last forward passes."""

    def __init__(self, student: Any, teacher: Any, task: Task) -> None:
        """Args:
        student: the network that is trained, with its matrices.
        teacher: as it is kept; without an engine around it.
        """
        self._no_target = task.no_target
        self._given: dict[int, torch.Tensor] = {}
        self._told: dict[int, torch.Tensor] = {}
        matrices = getattr(student, _NAME)
        own, others = _stack(student), _stack(teacher)
        for place, layer in enumerate(own):
            other = others[matched(place, len(own), len(others))]
            other.register_forward_hook(self._hear(place))
            layer.register_forward_hook(self._project(place, matrices[place]))

    def _hear(self, place: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            self._told[place] = _states(output)

        return hook

    def _project(self, place: int, matrix: nn.Module) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            # In validation too, though nobody asks: ZeRO-3 learns in which order modules compute.
            self._given[place] = matrix(_states(output))

        return hook

    def loss_sum(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum over the batch's targets of the mean over layers of how far the student is: the
        mean square of the difference as a share of that of the teacher's state. fp32"""
        assert self._given.keys() == self._told.keys(), "both were asked"
        total: Any = 0.0
        for place, given_BTK in self._given.items():
            told_BTK = self._told[place].float()
            apart_BT = (given_BTK.float() - told_BTK).square().mean(-1)
            share_BT = apart_BT / told_BTK.square().mean(-1).clamp(min=_LEAST)
            total = total + (share_BT * self._counts(batch, share_BT)).sum()
        total = total / len(self._given)
        self._given.clear()  # they hold on to all activations
        self._told.clear()
        return total  # type: ignore[no-any-return]

    def _counts(self, batch: Mapping[str, torch.Tensor], like_BT: torch.Tensor) -> torch.Tensor:
        """By how much each position counts: those of targets once, or all of a row together."""
        labels = batch["labels"].to(like_BT.device)
        bears = (labels != self._no_target).to(like_BT)
        if labels.shape == like_BT.shape:
            return bears
        mask = batch.get("attention_mask")
        real = torch.ones_like(like_BT) if mask is None else mask.to(like_BT)
        rows_B = bears.reshape(len(like_BT), -1).amax(1)
        return real / real.sum(1, keepdim=True).clamp(min=1) * rows_B[:, None]


def matched(place: int, depth: int, teachers: int) -> int:
    """Which of the teacher's layers one of the student's is held to."""
    return (place + 1) * teachers // depth - 1


def _stack(model: Any) -> nn.ModuleList:
    depth = depth_of(model, _FIELD)
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and name != _NAME
    ]
    if len(found) != 1:
        raise SpecError(f"{_FIELD}: a {type(model).__name__} is not one stack of layers")
    return found[0]


def _states(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states
