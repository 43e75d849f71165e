"""Reading and checking the runs of parameters that a checkpoint holds; `index.py` says where."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.index import Index, rank_file
from raymodel.train.checkpoint.span import Span, overlap

FLOAT_BYTES = 4
# Elements under one checksum (256 KiB). A reader of a part of a fragment reads whole blocks, so
# that it can check them: small blocks mean little in vain, large ones a small index.
BLOCK = 2**16
# Blocks in one read (8 MiB): what a reader holds, twice, besides what it fills. Stores of objects
# give their full speed to reads of about that size.
BLOCKS_IN_A_READ = 32


@dataclass(frozen=True)
class Fragment:
    """Where some elements of a parameter lie."""

    file: str
    span: Span
    tensors: Mapping[str, tuple[int, list[int]]]
    """Key (`weight`, a moment's name) → (first byte in the file, CRC-32 of each block)."""

    @classmethod
    def from_json(cls, entry: list[Any]) -> Fragment:
        file, start, length, tensors, *rows = entry
        return cls(file, Span(start, length, *rows[0]) if rows else Span.of(start, length), tensors)

    def to_json(self) -> list[Any]:
        entry = [self.file, self.span.start, self.span.length, dict(self.tensors)]
        rows = [self.span.run, self.span.stride, self.span.phase]
        return entry if self.span.is_one_run else [*entry, rows]


def checksums(data: Any) -> list[int]:
    """CRC-32 of each block of a run's bytes."""
    view = memoryview(data).cast("B")
    step = BLOCK * FLOAT_BYTES
    return [zlib.crc32(view[start : start + step]) for start in range(0, len(view), step)]


def tensor_offsets(path: Any) -> dict[str, int]:
    """First byte of each tensor in a local safetensors file, from its header."""
    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}


class FragmentReader:
    """Reads runs of parameters, and only the bytes that they need."""

    def __init__(self, location: Location, index: Index) -> None:
        self._location = location
        self.index = index
        self._streams: dict[str, Any] = {}
        self._fragments: dict[str, list[Fragment]] = {}

    def read(self, name: str, key: str, start: int, out: torch.Tensor) -> None:
        """Fills `out` (1-D fp32, on any device) with `key` of `name` from `start` on.

        Raises:
            CheckpointError: the parameter or a part of it is missing.
            DamagedCheckpointError: its bytes are not those that were written.
        """
        self.read_span(name, key, Span.of(start, out.numel()), out)

    def read_span(self, name: str, key: str, span: Span, out: torch.Tensor) -> None:
        """Like `read`, for elements that need not be neighbours."""
        host = out if out.device.type == "cpu" else torch.empty(out.shape)
        done, target = 0, host.numpy()
        for fragment in self._of(name):
            if fragment.span.start >= span.stop:
                break
            if fragment.span.stop > span.start:
                done += self._read_shared(fragment, name, key, span, target)
        if done != span.length:
            raise CheckpointError(
                f"{self._location} holds {done} of the {span.length} elements of "
                f"{span.start}:{span.stop} of {key} of {name}; it was written for another model"
            )
        if host is not out:
            out.copy_(host)

    def _read_shared(self, fragment: Fragment, name: str, key: str, span: Span, target: Any) -> int:
        """Copies what a fragment has of a span; returns how many elements."""
        shared = overlap(span, fragment.span)
        if not len(shared.lengths):
            return 0
        starts, sources, lengths = shared.a.tolist(), shared.b.tolist(), shared.lengths.tolist()
        if len(lengths) == 1:
            run = target[starts[0] : starts[0] + lengths[0]]
            self._fill(run, fragment, name, key, sources[0])
            return int(lengths[0])
        # From the first to the last element that is wanted. In between there may be others, of
        # which the blocks under one checksum hold some anyway.
        run = np.empty(sources[-1] + lengths[-1] - sources[0], dtype=np.float32)
        self._fill(run, fragment, name, key, sources[0])
        for at, source, length in zip(starts, sources, lengths, strict=True):
            source -= sources[0]
            target[at : at + length] = run[source : source + length]
        return int(sum(lengths))

    def rng(self, rank: int) -> dict[str, torch.Tensor]:
        """Random states of a rank; empty when the checkpoint had fewer ranks.

        Raises:
            DamagedCheckpointError: the bytes are not those that were written.
        """
        name, states = rank_file(rank), {}
        for device, (offset, size, crc) in self.index.rng.get(name, {}).items():
            data = self._bytes(name, offset, size)
            if zlib.crc32(data) != crc:
                raise self._damaged(name, f"the random state of {device}")
            states[device] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return states

    def buffer_shape(self, name: str) -> tuple[int, ...]:
        """Of a buffer of the model.

        Raises:
            CheckpointError: the checkpoint has no such buffer.
        """
        if name not in self.index.buffers:
            raise CheckpointError(
                f"{self._location} has no buffer {name!r}; it was written for another model, or "
                "before checkpoints held buffers"
            )
        return tuple(self.index.buffers[name]["shape"])

    def buffer(self, name: str) -> torch.Tensor:
        """A buffer of the model, whole, in the format it was written in, on the CPU.

        Raises:
            CheckpointError: the checkpoint has no such buffer.
            DamagedCheckpointError: the bytes are not those that were written.
        """
        shape, place = self.buffer_shape(name), self.index.buffers[name]
        dtype: torch.dtype = getattr(torch, place["dtype"])
        size = math.prod(shape) * dtype.itemsize
        data = self._bytes(place["file"], place["offset"], size)
        if zlib.crc32(data) != place["crc32"]:
            raise self._damaged(place["file"], f"the buffer {name}")
        if not size:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def _of(self, name: str) -> list[Fragment]:
        if name not in self._fragments:
            entry = self.index.parameters.get(name)
            if entry is None:
                raise CheckpointError(
                    f"{self._location} has no parameter {name!r}; it was written for another model"
                )
            fragments = [Fragment.from_json(parts) for parts in entry["fragments"]]
            self._fragments[name] = sorted(fragments, key=lambda f: f.span.start)
        return self._fragments[name]

    def _fill(self, out: Any, fragment: Fragment, name: str, key: str, begin: int) -> None:
        """Elements of a fragment from `begin` of it on, out of the whole blocks that hold them.

        Args:
            out: (n,) fp32, a numpy array.
        """
        if key not in fragment.tensors:
            raise CheckpointError(f"{self._location} has no {key} for {name!r}")
        offset, crcs = fragment.tensors[key]
        end = begin + len(out)
        stop_block = -(-end // BLOCK)
        for first in range(begin // BLOCK, stop_block, BLOCKS_IN_A_READ):
            last = min(first + BLOCKS_IN_A_READ, stop_block)
            start, stop = first * BLOCK, min(last * BLOCK, fragment.span.length)
            size = (stop - start) * FLOAT_BYTES
            data = self._bytes(fragment.file, offset + start * FLOAT_BYTES, size)
            if checksums(data) != crcs[first:last]:
                raise self._damaged(fragment.file, f"{key} of {name}")
            blocks = np.frombuffer(data, dtype=np.float32)
            low, high = max(begin, start), min(end, stop)
            out[low - begin : high - begin] = blocks[low - start : high - start]

    def _bytes(self, file: str, offset: int, size: int) -> Any:
        def read() -> Any:
            if file not in self._streams:
                # Not mapped into memory: what was read of a map stays there, and counts as used.
                self._streams[file] = (self._location / file).open_input()
            return self._streams[file].read_at(size, offset)

        return with_retries(read, f"reading {self._location / file}")

    def _damaged(self, file: str, what: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            f"{self._location / file}: {what} does not have the checksum it was written with; the "
            "file is damaged"
        )
