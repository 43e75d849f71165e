"""What the header of a GGUF file says of its tensors; loads no torch.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "File Structure".
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any, BinaryIO, NamedTuple, cast

from raymodel.errors import ArtifactError
from raymodel.storage.uri import Location

FAMILIES = ("llama", "qwen2", "qwen3")
"""`model_type` of those that are written, which is GGUF's name of the architecture too."""
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_ALIGNMENT = 32  # of the tensors, where the file says nothing else
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_MAX_TEXT_BYTES = 2**30  # a longer one is none: the file is another kind, or broken


def stored_bytes(type: int, shape: tuple[int, ...]) -> int:
    """What a tensor takes in a file.

    Args:
        type: as the package `gguf` numbers them.
    """
    import gguf

    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type)]
    return math.prod(shape) // numbers * size


class GgufInfo(NamedTuple):
    """A tensor without its content."""

    type: int
    """As the package `gguf` numbers them."""
    shape: tuple[int, ...]
    first_byte: int

    @property
    def numbers(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """In the file."""
        return stored_bytes(self.type, self.shape)


def read_gguf_header(file: Location, stream: Any) -> dict[str, GgufInfo]:
    """Name → what is said of a tensor.

    Args:
        file: named in errors.
        stream: at the start of the file.

    Raises:
        ArtifactError: it is no whole GGUF file.
    """
    import gguf

    source = cast(BinaryIO, io.BufferedReader(stream, 2**20))
    try:
        magic, version = source.read(4), _number(source, "I")
        if magic != _MAGIC or version not in _VERSIONS:
            raise ValueError(f"it begins with {magic!r} and version {version}")
        num_tensors, num_fields = _number(source, "Q"), _number(source, "Q")
        alignment = _ALIGNMENT
        for _ in range(num_fields):
            key, value = _text(source), _value(source, _number(source, "I"))
            if key == "general.alignment":
                alignment = int(value)
        found: dict[str, GgufInfo] = {}
        for _ in range(num_tensors):
            name = _text(source)
            shape = tuple(_number(source, "Q") for _ in range(_number(source, "I")))[::-1]
            kind = gguf.GGMLQuantizationType(_number(source, "I"))
            found[name] = GgufInfo(int(kind), shape, _number(source, "Q"))
        start = -(-source.tell() // alignment) * alignment
    except (ValueError, struct.error) as error:
        raise ArtifactError(f"{file} is no whole GGUF file: {error}; copy it again") from error
    return {name: info._replace(first_byte=start + info.first_byte) for name, info in found.items()}


def _number(source: BinaryIO, code: str) -> Any:
    size = struct.calcsize(f"<{code}")
    return struct.unpack(f"<{code}", source.read(size))[0]


def _text(source: BinaryIO) -> str:
    length = _number(source, "Q")
    if length > _MAX_TEXT_BYTES:
        raise ValueError(f"a text of {length:,} bytes")
    return source.read(length).decode("utf-8", "replace")


def _value(source: BinaryIO, kind: int) -> Any:
    """What stands there; of an array nothing is kept."""
    if kind == _STRING:
        return _text(source)
    if kind == _ARRAY:
        inner, count = _number(source, "I"), _number(source, "Q")
        if inner in _NUMBERS:
            source.read(struct.calcsize(f"<{_NUMBERS[inner]}") * count)
            return None
        for _ in range(count):
            _value(source, inner)
        return None
    if kind not in _NUMBERS:
        raise ValueError(f"a value of the unknown type {kind}")
    return _number(source, _NUMBERS[kind])
