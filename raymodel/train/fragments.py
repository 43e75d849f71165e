"""Reading and checking the runs of parameters that a checkpoint holds; `index.py` says where."""

from __future__ import annotations

import bisect
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.storage.uri import Location
from raymodel.train.index import Index, rank_file

FLOAT_BYTES = 4
# Elements under one checksum (256 KiB). A reader of a part of a fragment reads whole blocks, so
# that it can check them: small blocks mean little in vain, large ones a small index.
BLOCK = 2**16
# Blocks in one read (8 MiB): what a reader holds, twice, besides what it fills. Stores of objects
# give their full speed to reads of about that size.
BLOCKS_IN_A_READ = 32


@dataclass(frozen=True)
class Fragment:
    """Where one run of a parameter lies."""

    file: str
    start: int
    length: int
    tensors: Mapping[str, tuple[int, list[int]]]
    """Key (`weight`, a moment's name) → (first byte in the file, CRC-32 of each block)."""

    def to_json(self) -> list[Any]:
        return [self.file, self.start, self.length, dict(self.tensors)]


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
        done, stop = 0, start + out.numel()
        fragments = self._of(name)
        first = bisect.bisect_right(fragments, start, key=lambda f: f.start) - 1
        for fragment in fragments[max(0, first) :]:
            if fragment.start >= stop:
                break
            begin, end = max(start, fragment.start), min(stop, fragment.start + fragment.length)
            if begin < end:
                self._fill(out[begin - start : end - start], fragment, name, key, begin)
                done += end - begin
        if done != out.numel():
            raise CheckpointError(
                f"{self._location} holds {done} of the {out.numel()} elements {start}:{stop} of "
                f"{key} of {name}; it was written for another model"
            )

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
            fragments = [Fragment(*parts) for parts in entry["fragments"]]
            self._fragments[name] = sorted(fragments, key=lambda f: f.start)
        return self._fragments[name]

    def _fill(
        self, out: torch.Tensor, fragment: Fragment, name: str, key: str, begin: int
    ) -> None:
        """Elements of a fragment from `begin` of the parameter on, out of the whole blocks that
        hold them."""
        if key not in fragment.tensors:
            raise CheckpointError(f"{self._location} has no {key} for {name!r}")
        offset, crcs = fragment.tensors[key]
        begin -= fragment.start
        end = begin + out.numel()
        stop_block = -(-end // BLOCK)
        for first in range(begin // BLOCK, stop_block, BLOCKS_IN_A_READ):
            last = min(first + BLOCKS_IN_A_READ, stop_block)
            start, stop = first * BLOCK, min(last * BLOCK, fragment.length)
            size = (stop - start) * FLOAT_BYTES
            data = self._bytes(fragment.file, offset + start * FLOAT_BYTES, size)
            if checksums(data) != crcs[first:last]:
                raise self._damaged(fragment.file, f"{key} of {name}")
            blocks = torch.frombuffer(bytearray(data), dtype=torch.float32)
            low, high = max(begin, start), min(end, stop)
            out[low - begin : high - begin].copy_(blocks[low - start : high - start])

    def _bytes(self, file: str, offset: int, size: int) -> Any:
        if file not in self._streams:
            # Not mapped into memory: what was read of a map stays there, and counts as used.
            self._streams[file] = (self._location / file).open_input()
        return self._streams[file].read_at(size, offset)

    def _damaged(self, file: str, what: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            f"{self._location / file}: {what} does not have the checksum it was written with; the "
            "file is damaged"
        )
