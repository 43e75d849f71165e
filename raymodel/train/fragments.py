"""The files of a checkpoint: which bytes hold which run of which parameter.

```
checkpoints/step-00000100/
  rank-00000.safetensors   what one rank owned: fp32 weight and moments, one tensor a fragment
  rank-00000.json          the index of that file; its presence says that the file is whole
  checkpoint.json          written last: all indexes merged, and the state of the run
```

A fragment is a run `start … start + length` of a flattened parameter. Fragments of a parameter
never overlap and together cover it, so a reader that needs any run finds its bytes whatever the
world size and ZeRO stage were. Nothing here is pickled.
"""

from __future__ import annotations

import bisect
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from raymodel.errors import CheckpointError
from raymodel.storage.uri import Location

FORMAT_VERSION = 1
INDEX = "checkpoint.json"
FLOAT_BYTES = 4


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def rank_index(rank: int) -> str:
    return f"rank-{rank:05d}.json"


@dataclass(frozen=True)
class Fragment:
    """Where one run of a parameter lies."""

    file: str
    start: int
    length: int
    tensors: Mapping[str, tuple[int, int]]
    """Key (`weight`, a moment's name) → (first byte in the file, CRC-32 of the bytes)."""

    def to_json(self) -> list[Any]:
        return [self.file, self.start, self.length, dict(self.tensors)]


@dataclass(frozen=True)
class Index:
    """`checkpoint.json`."""

    step: int
    world_size: int
    state: dict[str, Any]
    counters: dict[str, float]
    updates: int
    moments: list[str]
    versions: dict[str, str]
    files: dict[str, int]
    """Rank file → bytes."""
    parameters: dict[str, dict[str, Any]]
    """Name → {"shape": […], "fragments": [[file, start, length, {key: [offset, crc]}], …]}."""
    rng: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Rank file → {device: [offset, bytes]} of the random states."""
    format_version: int = FORMAT_VERSION

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.parameters[name]["shape"])


def load_index(location: Location) -> Index:
    """Reads `checkpoint.json` and checks that each file has the size it was written with.

    Raises:
        CheckpointError: when the checkpoint is not whole; the message says what is wrong.
    """
    try:
        body = json.loads((location / INDEX).read_bytes())
        if body["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{location} has format_version {body['format_version']}; this raymodel reads "
                f"{FORMAT_VERSION}. Use the raymodel that wrote it"
            )
        index = Index(**body)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{location / INDEX} was cut short or edited ({error})") from error
    sizes = {entry.name: entry.bytes for entry in location.list()}
    for name, size in index.files.items():
        if sizes.get(name) != size:
            raise CheckpointError(
                f"{location / name} has {sizes.get(name, 'no')} bytes where {size} were written; "
                "it was cut short"
            )
    return index


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
            CheckpointError: when the parameter or a part of it is missing, or bytes are damaged.
        """
        done, stop = 0, start + out.numel()
        fragments = self._of(name)
        first = bisect.bisect_right(fragments, start, key=lambda f: f.start) - 1
        for fragment in fragments[max(0, first) :]:
            begin, end = max(start, fragment.start), min(stop, fragment.start + fragment.length)
            if begin < end:
                run = self._run(fragment, name, key, begin, end)
                out[begin - start : end - start].copy_(run)
                done += end - begin
        if done != out.numel():
            raise CheckpointError(
                f"{self._location} holds {done} of the {out.numel()} elements {start}:{stop} of "
                f"{key} of {name}; it was written for another model"
            )

    def rng(self, rank: int) -> dict[str, torch.Tensor]:
        """Random states of a rank; empty when the checkpoint had fewer ranks."""
        name = rank_file(rank)
        return {
            device: torch.frombuffer(bytearray(self._bytes(name, offset, size)), dtype=torch.uint8)
            for device, (offset, size) in self.index.rng.get(name, {}).items()
        }

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

    def _run(self, fragment: Fragment, name: str, key: str, begin: int, end: int) -> torch.Tensor:
        if key not in fragment.tensors:
            raise CheckpointError(f"{self._location} has no {key} for {name!r}")
        offset, crc = fragment.tensors[key]
        first = offset + (begin - fragment.start) * FLOAT_BYTES
        data = self._bytes(fragment.file, first, (end - begin) * FLOAT_BYTES)
        if end - begin == fragment.length and zlib.crc32(data) != crc:
            raise CheckpointError(
                f"{self._location / fragment.file}: {key} of {name} does not have the checksum it "
                "was written with; the file is damaged"
            )
        return torch.frombuffer(bytearray(data), dtype=torch.float32)

    def _bytes(self, file: str, offset: int, size: int) -> Any:
        if file not in self._streams:
            self._streams[file] = (self._location / file).open_input(memory_map=True)
        return self._streams[file].read_at(size, offset)
