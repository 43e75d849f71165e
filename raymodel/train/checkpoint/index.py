"""The files of a checkpoint: which bytes hold which run of which parameter.

```
checkpoints/step-00000100/
  rank-00000.safetensors   what one rank owned: fp32 weight and moments, one tensor a fragment;
                           that of rank 0 also the buffers of the model, where it has any
  rank-00000.json          the index of that file; its presence says that the file is whole
  checkpoint.json          written last: all indexes merged, and the state of the run
```

A fragment is a run `start … start + length` of a flattened parameter, or the rows of a block of it
(`Span`), where workers shared a matrix. Fragments of a parameter never overlap and together cover
it, so a reader that needs any elements finds their bytes whatever the layout was. Nothing here is
pickled, and every byte is under a checksum.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.storage.uri import Location

FORMAT_VERSION = 1
INDEX = "checkpoint.json"
_SELF_CHECK = "crc32"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def rank_index(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def statistic_name(parameter: str, key: str) -> str:
    """Under which an optimizer's statistic of a parameter is kept, beside the parameters. No name
    of a module has this sign."""
    return f"{parameter}#{key}"


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
    """Name → {"shape": […], "fragments": [[file, start, length, {key: [offset, crcs]}], …]}; of a
    block of rows a fifth entry, [run, stride, phase]. Statistics of parameters are among them."""
    rng: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Rank file → {device: [offset, bytes, CRC-32]} of the random states."""
    buffers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → {"file", "dtype", "shape", "offset", "crc32"} of each persistent buffer of the
    model. Not written when there is none."""
    tensor: int = 1
    """Workers that shared each matrix when this was written, and each row."""
    sequence: int = 1
    format_version: int = FORMAT_VERSION

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.parameters[name]["shape"])

    def keys_of(self, name: str) -> set[str]:
        """What there is of a parameter: its weight and moments; nothing of one that is unknown."""
        entry = self.parameters.get(name)
        return set(entry["fragments"][0][3]) if entry else set()

    def statistics_of(self, name: str) -> dict[str, tuple[int, ...]]:
        """Key → shape of what an optimizer keeps of the rows and columns of a parameter."""
        start = statistic_name(name, "")
        found = (each for each in self.parameters if each.startswith(start))
        return {each.removeprefix(start): self.shape(each) for each in found}


def save_index(location: Location, index: Index) -> None:
    """Writes `checkpoint.json`: from now on the checkpoint counts."""
    body = {key: value for key, value in vars(index).items() if key != "buffers" or value}
    (location / INDEX).write_bytes(_json(body | {_SELF_CHECK: zlib.crc32(_json(body))}))


def load_index(location: Location) -> Index:
    """Reads `checkpoint.json` and checks that each file has the size it was written with.

    Raises:
        DamagedCheckpointError: the checkpoint is not whole; the message says what is wrong.
        CheckpointError: it is of another format version.
    """
    try:
        body = json.loads((location / INDEX).read_bytes())
        expected = body.pop(_SELF_CHECK)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{location / INDEX} was cut short ({error})") from error
    if zlib.crc32(_json(body)) != expected:
        raise DamagedCheckpointError(f"{location / INDEX} was changed after it was written")
    if body["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{location} has format_version {body['format_version']}; this raymodel reads "
            f"{FORMAT_VERSION}. Use the raymodel that wrote it"
        )
    index = Index(**body)
    sizes = {entry.name: entry.bytes for entry in location.list()}
    for name, size in index.files.items():
        if sizes.get(name) != size:
            raise DamagedCheckpointError(
                f"{location / name} has {sizes.get(name, 'no')} bytes where {size} were written; "
                "it was cut short"
            )
    return index


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
