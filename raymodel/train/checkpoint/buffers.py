"""Buffers of a model in a checkpoint: what `state_dict()` holds besides parameters, such as the
running statistics of batch norm.

They are the same on every rank, so rank 0 writes them, whole and in their own format, beside its
part of the parameters; every rank reads them back.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raymodel.errors import CheckpointError
from raymodel.train.checkpoint.fragments import FragmentReader

_KEY = "buffer:"


def persistent_buffers(network: nn.Module) -> dict[str, torch.Tensor]:
    """By name. One that modules share comes under each of its names."""
    return {
        f"{prefix}.{key}" if prefix else key: buffer
        for prefix, module in network.named_modules(remove_duplicate=False)
        for key, buffer in module._buffers.items()
        if buffer is not None and key not in module._non_persistent_buffers_set
    }


def tensor_key(name: str) -> str:
    """Of a buffer in the file of rank 0. No parameter's key begins so."""
    return f"{_KEY}{name}"


def buffer_places(
    file: str, tensors: Mapping[str, torch.Tensor], offsets: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """What the index says of the buffers among the tensors of a file, see `Index.buffers`."""
    return {
        key.removeprefix(_KEY): {
            "file": file,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "offset": offsets[key],
            "crc32": zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data),
        }
        for key, tensor in tensors.items()
        if key.startswith(_KEY)
    }


def check_buffers(reader: FragmentReader, network: nn.Module) -> None:
    """Raises when a checkpoint does not have every buffer of a network; the same on all ranks.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    for name, buffer in persistent_buffers(network).items():
        shape = reader.buffer_shape(name)
        if shape != tuple(buffer.shape):
            raise CheckpointError(
                f"{name} has shape {list(shape)} in the checkpoint and {list(buffer.shape)} in the "
                "model; it was written for another model"
            )


def fill_buffers(reader: FragmentReader, network: nn.Module) -> None:
    """Writes what a checkpoint holds into the buffers of a network, on whatever device.

    Raises:
        DamagedCheckpointError: the bytes are not those that were written.
    """
    for name, buffer in persistent_buffers(network).items():
        buffer.copy_(reader.buffer(name))
