"""The network that a run trains: fresh or from a folder, with an adapter or without."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from raymodel.data.shard import Dataset
from raymodel.data.tokenizer import load_tokenizer, num_ids
from raymodel.model.adapters import AdaptedWeights, attach_adapter
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights, Weights
from raymodel.model.load import fit_tokenizer, open_model
from raymodel.tasks.base import Task
from raymodel.tasks.batch import pad_id
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
    first: InitialWeights
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
        plain, stored = open_model(work.base, task)
        fit_tokenizer(work.base, plain, load_tokenizer(dataset.tokenizer), task)
    first = InitialWeights(plain, work.seed, stored)
    adapter = spec.adapter if isinstance(spec, FinetuneSpec) else None
    if adapter is None:
        return Network(module=copy.deepcopy(plain), weights=first, plain=plain, first=first)
    module = attach_adapter(copy.deepcopy(plain), adapter, task)
    weights = AdaptedWeights(module, first, work.seed)
    return Network(module=module, weights=weights, plain=plain, first=first)


def _fresh_model(work: TrainWork, task: Task, dataset: Dataset) -> PreTrainedModel:
    assert isinstance(work.spec, PretrainSpec), "only pretraining starts from nothing"
    assert dataset.sequence_length is not None, "pretraining reads packed rows"
    tokenizer = load_tokenizer(dataset.tokenizer)
    return build_model(
        work.spec.model,
        task,
        vocab_size=num_ids(tokenizer),
        max_positions=dataset.sequence_length,
        pad_token_id=pad_id(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
    )
