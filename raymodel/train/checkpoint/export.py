"""From the last checkpoint to a Hugging Face folder, for models larger than memory.

The weights come from the checkpoint's fragments, parameter by parameter, and are written as they
come: nothing is gathered from the ranks, no process holds the model, and the result is the same for
any ZeRO stage.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raymodel.data.shard import Dataset
from raymodel.errors import CheckpointError, NonFiniteLossError
from raymodel.model.adapters import adapted_layers, is_update, plain_name, weight_update
from raymodel.model.export import save_model
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location
from raymodel.tasks.base import Task
from raymodel.train.checkpoint.buffers import check_buffers, persistent_buffers
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import Index
from raymodel.train.checkpoint.state import checkpoint_location, find_checkpoint, find_exported
from raymodel.train.network import Network, build_network
from raymodel.train.step.engine import DTYPES
from raymodel.train.step.zero import WEIGHT
from raymodel.train.work import told_of_base, told_of_teacher

if TYPE_CHECKING:
    from raymodel.train.work import TrainWork

_PART = ".part-"


def export_model(work: TrainWork, task: Task, dataset: Dataset) -> Index:
    """Writes `<run>/model/` from the newest or the best checkpoint, as the spec says.

    An adapter is merged into its base. Returns the index of the checkpoint that was taken.

    Raises:
        CheckpointError: there is no whole checkpoint, or it was written for another model.
        NonFiniteLossError: the best one is asked for, and no validation loss is finite.
    """
    index = find_exported(work.run, work.spec)
    if index is None and find_checkpoint(work.run) is not None:
        raise NonFiniteLossError(
            f"`export` is best, and no checkpoint of {work.run} has a validation loss that is "
            "finite, so none is the best; lower `optimizer.learning_rate`, or set `export: last`"
        )
    if index is None:
        raise CheckpointError(f"{work.run} holds no whole checkpoint to export; run the job again")
    network = build_network(work, task, dataset)
    reader = FragmentReader(checkpoint_location(work.run, index.step), index)
    card = {
        "name": work.job_name,
        "stage": work.stage,
        "task": work.task.name,
        "pipeline_tag": task.pipeline_tag,
        "steps": index.step,
        "tokens": index.state["tokens"],
        "data_digest": index.state["data_digest"],
        **told_of_base(work),
        **told_of_teacher(work),
    }
    with folder_for(work.run / "model") as (folder, on_file):
        save_model(
            network.plain,
            TrainedWeights(network, reader),
            task.processor,
            folder,
            DTYPES[work.spec.precision],
            card,
            on_file=on_file,
        )
    reader.close()
    return index


class TrainedWeights:
    """The weights of the plain model after training, in fp32, one at a time.

    Trained ones come from the checkpoint, and so do buffers, in their own format; frozen ones come
    from where the run began. An adapter's update is added to the matrix that it adapts, in fp32, so
    that they round once.
    """

    def __init__(self, network: Network, reader: FragmentReader) -> None:
        check_buffers(reader, network.module)
        self._network, self._checkpoint = network, CheckpointWeights(reader)
        self._buffers = {plain_name(n): n for n in persistent_buffers(network.module)}
        sources = network.plain.all_tied_weights_keys
        trained = {plain_name(n): n for n in reader.index.parameters if not is_update(n)}
        # A checkpoint has tied weights under the first of their names.
        self._trained = {sources.get(plain, plain): name for plain, name in trained.items()}
        self._layers = adapted_layers(network.module)

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer of the plain model, on the CPU.

        Raises:
            CheckpointError: the checkpoint lacks a part of it.
            DamagedCheckpointError: its bytes are not those that were written.
        """
        if name in self._buffers:
            return self._checkpoint.read_buffer(self._buffers[name])
        if name in self._trained:
            weight = self._checkpoint.read(self._trained[name])
        else:
            weight = self._network.first.read(name)
        if name in self._layers:
            weight = weight.float()
            weight += weight_update(self._network.module, self._layers[name], self._checkpoint)
        return weight


class CheckpointWeights:
    """The fp32 weights that a checkpoint holds, by their names in the network."""

    def __init__(self, reader: FragmentReader) -> None:
        self._reader = reader

    def read(self, name: str) -> torch.Tensor:
        """A parameter, whole, on the CPU."""
        shape = self._reader.index.shape(name)
        weight = torch.empty(shape, dtype=torch.float32)
        self._reader.read(name, WEIGHT, 0, weight.view(-1))
        return weight

    def read_buffer(self, name: str) -> torch.Tensor:
        """A buffer, whole, in its own format, on the CPU."""
        return self._reader.buffer(name)


@contextmanager
def folder_for(target: Location) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A local folder to write into, and what to do with each file that is whole.

    On a disk it lies beside its place, and is moved there in the end. For a bucket each file is
    sent off at once and then deleted here.
    """
    if not target.is_local:
        with tempfile.TemporaryDirectory(prefix="raymodel-") as scratch:
            folder = Path(scratch)
            yield folder, lambda file: _send(file, target / file.relative_to(folder).as_posix())
        return
    target.delete_tree()
    target.parent.make_dir()
    for entry in target.parent.list():
        if entry.name.startswith(_PART):  # of an attempt that was killed here
            (target.parent / entry.name).delete_tree()
    with tempfile.TemporaryDirectory(dir=target.parent.local_path, prefix=_PART) as parent:
        folder = Path(parent) / "model"
        yield folder, lambda file: None
        shutil.move(folder, target.local_path)


def _send(file: Path, target: Location) -> None:
    with_retries(lambda: target.upload(file), f"writing {target}")
    file.unlink()
