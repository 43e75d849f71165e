"""What a model's weights take in memory, by the headers of its files; loads no torch.

A file says less: numbers of fewer bits are multiplied out when a model is served, but for those
that layers of 8 bits compute with, and many a model is stored in one type and computed in another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from raymodel.model.compressed_form import find_form, has_int8_layers
from raymodel.model.gguf_header import read_gguf_header
from raymodel.model.tensor_header import read_tensor_header
from raymodel.storage.model_files import GGUF_FILE, INDEX, ONE_FILE
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

NUMBER_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Type of a model's numbers → bytes of one."""
_PACKED = {"fp8": ("F8_E4M3", 1), "int8": ("I8", 1), "int4": ("I32", 8)}
"""Bits of numbers that have scales → the type of their tensors in a file, and how many of them one
of that type holds."""
_FRACTIONS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class _Tensor(NamedTuple):
    numbers: int
    bytes: int
    type: str | None
    """Of fractions that may be loaded in another type; None of what stays as it is."""


@dataclass(frozen=True, kw_only=True)
class StoredNumbers:
    """Of all weights of one folder."""

    fractions: int
    """Numbers that are loaded in the type of the model."""
    kept_bytes: int
    """Of whole numbers, and of those that a quantiser of another project keeps."""
    file_bytes: int
    largest: int
    """Numbers of the largest tensor, which is there twice while its type changes."""
    dtype: str
    """What the model is loaded in when nothing else is asked for."""
    is_gguf: bool
    """Each tensor is then multiplied out to fp32 first."""

    def held_bytes(self, dtype: str) -> int:
        """Of the loaded model, its numbers in this type."""
        return self.kept_bytes + self.fractions * NUMBER_BYTES[dtype]

    def loading_bytes(self, dtype: str) -> int:
        """The most that loading takes, into this type."""
        most = max(self.dtype, dtype, key=NUMBER_BYTES.__getitem__)
        twice = "float32" if self.is_gguf else dtype if self.dtype != dtype else None
        return self.held_bytes(most) + (self.largest * NUMBER_BYTES[twice] if twice else 0)


def find_stored_numbers(folder: Location, task_name: str) -> StoredNumbers | None:
    """Reads the headers of a model folder; None for one without a configuration or its weights.

    Args:
        task_name: what it is served for.

    Raises:
        ArtifactError: a header is damaged.
    """
    if not (folder / "config.json").exists():
        return None
    config = (folder / "config.json").read_json()
    tensors = list(_tensors(folder, config, task_name))
    if not tensors:
        return None
    fractions = [tensor for tensor in tensors if tensor.type is not None]
    return StoredNumbers(
        fractions=sum(tensor.numbers for tensor in fractions),
        kept_bytes=sum(tensor.bytes for tensor in tensors if tensor.type is None),
        file_bytes=sum(tensor.bytes for tensor in tensors),
        largest=max((tensor.numbers for tensor in fractions), default=0),
        dtype=_saved_dtype(config) or _commonest(fractions),
        is_gguf=(folder / GGUF_FILE).exists(),
    )


def _saved_dtype(config: Mapping[str, Any]) -> str | None:
    said = config.get("dtype") or config.get("torch_dtype")  # of older folders
    return said if said in NUMBER_BYTES else None


def _commonest(fractions: list[_Tensor]) -> str:
    counts: dict[str, int] = {}
    for tensor in fractions:
        counts[str(tensor.type)] = counts.get(str(tensor.type), 0) + tensor.numbers
    return max(counts, key=counts.__getitem__, default="float32")


def _tensors(folder: Location, config: Mapping[str, Any], task_name: str) -> Iterator[_Tensor]:
    if (folder / GGUF_FILE).exists():
        file = folder / GGUF_FILE
        with file.open_input() as stream:
            infos = read_gguf_header(file, stream)
        for info in infos.values():
            yield _Tensor(info.numbers, info.bytes, "float32")
        return
    form = find_form(config.get("quantization_config"))
    is_kept = form is None or has_int8_layers(form, get_task(task_name))
    packed, count = ("", 1) if form is None or is_kept else _PACKED[form.bits]
    for file in _tensor_files(folder):
        with file.open_input() as stream:
            _, entries = read_tensor_header(file, stream)
        for entry in entries.values():
            first, last = entry["data_offsets"]
            numbers = math.prod(entry["shape"])
            if entry["dtype"] == packed:
                yield _Tensor(numbers * count, last - first, _saved_dtype(config) or "bfloat16")
                continue
            # What the scales of whole numbers are is lost among these, and is little.
            yield _Tensor(numbers, last - first, _FRACTIONS.get(entry["dtype"]))


def _tensor_files(folder: Location) -> list[Location]:
    """Those that are there; which are missing, loading says."""
    if (folder / ONE_FILE).exists():
        return [folder / ONE_FILE]
    if not (folder / INDEX).exists():
        return []
    names = sorted(set((folder / INDEX).read_json()["weight_map"].values()))
    return [folder / name for name in names if (folder / name).exists()]
