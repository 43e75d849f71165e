"""The network that a run trains: fresh or from a folder, with an adapter or without."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from raymodel.data.shard import Dataset
from raymodel.errors import ArtifactError
from raymodel.model.adapters import AdaptedWeights, attach_adapter
from raymodel.model.build import build_model
from raymodel.model.initial import Weights
from raymodel.model.layers import begin_with_layers
from raymodel.model.load import fit, open_model
from raymodel.model.own import first_weights
from raymodel.storage.local import near
from raymodel.storage.uri import Location
from raymodel.tasks.base import Task
from raymodel.train.spec import FinetuneSpec, PretrainSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.train.work import TrainWork


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network on the meta device, where it takes no memory, and where its weights come from."""

    module: nn.Module
    """What is trained, with its adapter."""
    weights: Weights
    """The first weights of `module`."""
    plain: PreTrainedModel
    """The model without the adapter: what is written in the end."""
    first: Weights
    """The first weights of `plain`."""


def build_network(work: TrainWork, task: Task, dataset: Dataset) -> Network:
    """The outline of the network, the same on every rank.

    Raises:
        SpecError: the model cannot be built, or does not fit the task.
        ArtifactError: the base folder is not a model for this task.
    """
    spec = work.spec
    if work.base is None:
        plain, stored = _fresh_model(work, task, dataset), None
    else:
        base = near(work.base)
        plain, stored = open_model(base, task)
        if isinstance(spec, PretrainSpec):  # of examples the base is the reader
            _check_reads_alike(base, task)
        fit(work.base, plain, task)
    first = first_weights(plain, work.seed, stored)
    if spec.distill is not None and spec.distill.student is not None:
        plain, first = begin_with_layers(plain, first, spec.distill.student.layers, task)
    adapter = spec.adapter if isinstance(spec, FinetuneSpec) else None
    if adapter is None:
        return Network(module=copy.deepcopy(plain), weights=first, plain=plain, first=first)
    module = attach_adapter(copy.deepcopy(plain), adapter, task)
    weights = AdaptedWeights(module, first, work.seed)
    return Network(module=module, weights=weights, plain=plain, first=first)


def _check_reads_alike(base: Location, task: Task) -> None:
    own = type(task)(task.spec).reading_as(base).processor
    if (difference := task.processor.find_difference(own)) is not None:
        raise ArtifactError(
            f"pretrain.base, {base}, reads with another {task.processor.file} than the data "
            f"({difference}): one number is another thing to each. Prepare the data with that of "
            "the base"
        )


def _fresh_model(work: TrainWork, task: Task, dataset: Dataset) -> PreTrainedModel:
    spec, length = work.spec, dataset.sequence_length
    if isinstance(spec, FinetuneSpec):
        length = spec.max_length
    assert isinstance(spec, PretrainSpec | FinetuneSpec), "there are two kinds of training"
    assert spec.model is not None, "the job was checked"
    return build_model(spec.model, task, task.processor.model_fields(length))
