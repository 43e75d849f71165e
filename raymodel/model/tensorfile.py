"""safetensors files, one tensor at a time: never a whole file in memory.

The format (https://huggingface.co/docs/safetensors, "Format"): eight bytes with the length of the
header, little-endian; the header, JSON that gives each tensor's type, shape and place; then the
tensors' bytes, one after the other without a gap, little-endian and in row-major order. The library
`safetensors` writes a file only from all of its tensors at once, and reads only local files.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from raymodel.errors import ArtifactError
from raymodel.model.tensor_header import broken_tensors, read_tensor_header
from raymodel.storage.uri import CHUNK_BYTES, Location

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "I64": torch.int64,
    "F64": torch.float64,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ALIGNMENT = 8  # of the first tensor's byte, as the library writes it


@dataclass(frozen=True)
class TensorInfo:
    """A tensor without its content."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(
    stream: BinaryIO, tensors: Iterable[TensorInfo], read: Callable[[str], torch.Tensor]
) -> None:
    """Writes a safetensors file; memory holds one tensor at a time.

    Args:
        stream: Open for writing, at its start.
        tensors: What the file holds, in this order.
        read: Gives each tensor when its turn has come; it is cast to the type that was announced.
    """
    tensors = tuple(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # what transformers asks for
    end = 0
    for info in tensors:
        start, end = end, end + info.bytes
        place = {"shape": list(info.shape), "data_offsets": [start, end]}
        header[info.name] = {"dtype": _CODES[info.dtype], **place}
    body = json.dumps(header, separators=(",", ":")).encode()
    body += b" " * (-len(body) % _ALIGNMENT)
    stream.write(struct.pack("<Q", len(body)) + body)
    for info in tensors:
        tensor = read(info.name)
        assert tuple(tensor.shape) == info.shape, (info, tuple(tensor.shape))
        stream.write(_bytes_of(tensor.detach().to("cpu", info.dtype)))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


class TensorFile:
    """A safetensors file on a disk or in a bucket; reads the bytes of one tensor at a time."""

    def __init__(self, location: Location) -> None:
        """Reads the header.

        Raises:
            ArtifactError: the file is no safetensors file, or was cut short.
        """
        self._location = location
        self._stream = location.open_input()
        self._start, entries = read_tensor_header(location, self._stream)
        self._first_byte: dict[str, int] = {}
        self.tensors: dict[str, TensorInfo] = {}
        size, end = self._stream.size(), self._start
        for name, entry in entries.items():
            dtype = _DTYPES.get(entry["dtype"])
            if dtype is None:
                raise ArtifactError(f"{location}: {name} has the unknown type {entry['dtype']}")
            first, last = entry["data_offsets"]
            self.tensors[name] = TensorInfo(name, dtype, tuple(entry["shape"]))
            self._first_byte[name] = self._start + first
            end = max(end, self._start + last)
            if last - first != self.tensors[name].bytes:
                raise broken_tensors(location, f"{name} has {last - first} bytes")
        if size != end:
            raise broken_tensors(location, f"it has {size} bytes where its header says {end}")

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, on the CPU, in the type that is stored."""
        info = self.tensors[name]
        flat = torch.empty(info.bytes, dtype=torch.uint8)
        target = flat.numpy().data
        self._stream.seek(self._first_byte[name])
        for start in range(0, info.bytes, CHUNK_BYTES):
            chunk = self._stream.read(min(CHUNK_BYTES, info.bytes - start))
            target[start : start + len(chunk)] = chunk
        return flat.view(info.dtype).view(info.shape)

    def close(self) -> None:
        self._stream.close()
