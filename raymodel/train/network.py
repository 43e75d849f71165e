"""The network that a run trains: fresh or from a folder, with an adapter or without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from raymodel.data.shard import Dataset
from raymodel.data.tokenizer import load_tokenizer
from raymodel.model.adapters import attach_adapter
from raymodel.model.build import build_model, load_model
from raymodel.storage.local import local_folder
from raymodel.tasks.base import Task
from raymodel.tasks.batch import pad_id
from raymodel.train.spec import FinetuneSpec, PretrainSpec

if TYPE_CHECKING:
    from raymodel.train.work import TrainWork


def build_network(work: TrainWork, task: Task, dataset: Dataset) -> torch.nn.Module:
    """The module in fp32 on the CPU, the same on every rank; DeepSpeed casts it.

    Raises:
        SpecError: the model cannot be built, or does not fit the task.
        ArtifactError: the base folder is not a model for this task.
    """
    spec = work.spec
    if work.base is None:
        assert isinstance(spec, PretrainSpec), "only pretraining starts from nothing"
        tokenizer = load_tokenizer(dataset.tokenizer)
        assert dataset.sequence_length is not None, "pretraining reads packed rows"
        return build_model(
            spec.model,
            task,
            vocab_size=len(tokenizer),
            max_positions=dataset.sequence_length,
            pad_token_id=pad_id(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            seed=work.seed,
            dtype=torch.float32,
        )
    with local_folder(work.base) as folder:
        model = load_model(folder, task, torch.float32, seed=work.seed).train()
    adapter = spec.adapter if isinstance(spec, FinetuneSpec) else None
    return attach_adapter(model, adapter, task, seed=work.seed) if adapter else model
