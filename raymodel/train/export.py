"""From the last checkpoint to a Hugging Face folder.

The weights come from the checkpoint's fragments, parameter by parameter, so nothing is gathered
from the ranks and the result is the same for any ZeRO stage.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raymodel.data.shard import Dataset
from raymodel.data.tokenizer import load_tokenizer
from raymodel.errors import CheckpointError
from raymodel.model.adapters import merge_adapter
from raymodel.model.export import save_model
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location
from raymodel.tasks.base import Task
from raymodel.train.checkpoint import checkpoint_location, find_exported
from raymodel.train.fragments import FragmentReader
from raymodel.train.index import Index
from raymodel.train.network import build_network
from raymodel.train.spec import FinetuneSpec
from raymodel.train.zero import WEIGHT

if TYPE_CHECKING:
    from raymodel.train.work import TrainWork

_PART = ".part-"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def export_model(work: TrainWork, task: Task, dataset: Dataset) -> Index:
    """Writes `<run>/model/` from the newest or the best checkpoint, as the spec says.

    An adapter is merged into its base. Returns the index of the checkpoint that was taken.

    Raises:
        CheckpointError: there is no whole checkpoint, or it was written for another model.
    """
    index = find_exported(work.run, work.spec)
    if index is None:
        raise CheckpointError(f"{work.run} holds no whole checkpoint to export; run the job again")
    network = build_network(work, task, dataset)
    reader = FragmentReader(checkpoint_location(work.run, index.step), index)
    load_weights(network, reader)
    reader.close()
    if isinstance(work.spec, FinetuneSpec) and work.spec.adapter is not None:
        network = merge_adapter(network)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(dataset.tokenizer)
    card = {
        "name": work.job_name,
        "stage": work.stage,
        "task": work.task,
        "steps": index.step,
        "tokens": index.state["tokens"],
        "data_digest": index.state["data_digest"],
    }
    _write(network, tokenizer, work.run / "model", _DTYPES[work.spec.precision], card)
    return index


@torch.no_grad()
def load_weights(network: torch.nn.Module, reader: FragmentReader) -> None:
    """Fills the trained parameters of a plain module; frozen ones stay as they were built."""
    for name, parameter in network.named_parameters():  # tied parameters come once
        if parameter.requires_grad:
            flat = torch.empty(parameter.numel(), dtype=torch.float32)
            reader.read(name, WEIGHT, 0, flat)
            parameter.copy_(flat.view_as(parameter))


def _write(network: Any, tokenizer: Any, target: Location, dtype: torch.dtype, card: Any) -> None:
    """Builds the folder beside its place, then puts it there."""
    if target.is_local:
        target.delete_tree()
        target.parent.make_dir()
        for entry in target.parent.list():
            if entry.name.startswith(_PART):  # of an attempt that was killed here
                (target.parent / entry.name).delete_tree()
        with tempfile.TemporaryDirectory(dir=target.parent.local_path, prefix=_PART) as folder:
            save_model(network, tokenizer, Path(folder) / "model", dtype, card)
            shutil.move(Path(folder) / "model", target.local_path)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(network, tokenizer, folder, dtype, card)
        for file in sorted(Path(folder).iterdir()):
            upload = partial((target / file.name).upload, file)
            with_retries(upload, f"writing {target / file.name}")
