"""What the header of a safetensors file says of its tensors; loads no torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from raymodel.errors import ArtifactError
from raymodel.storage.uri import Location

# The library refuses larger ones too: more than that is a file that is none.
_MAX_HEADER_BYTES = 100_000_000


def read_tensor_header(file: Location, stream: Any) -> tuple[int, Mapping[str, Any]]:
    """Where the tensors begin in the file, and name → what is said of each: its `dtype`, `shape`
    and `data_offsets`.

    Args:
        file: named in errors.
        stream: at the start of the file.

    Raises:
        ArtifactError: it is no safetensors file.
    """
    prefix = stream.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _MAX_HEADER_BYTES + 1
    if length > _MAX_HEADER_BYTES:
        raise broken_tensors(file, "its first bytes are no length")
    try:
        header: dict[str, Any] = json.loads(stream.read(length))
    except ValueError as error:
        raise broken_tensors(file, f"its header is no JSON ({error})") from error
    header.pop("__metadata__", None)
    return 8 + length, header


def broken_tensors(file: Location, why: str) -> ArtifactError:
    """The error of a file that is damaged."""
    return ArtifactError(f"{file} is not a whole safetensors file: {why}; copy it again")
