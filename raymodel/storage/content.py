"""What the files of a folder hold, told by reading a few MiB of each.

Names, sizes and times do not tell a model from the one that was trained on from it: the weights lie
under the same names, in files of the same size, and a copy has another time. A hash of all bytes
would, but reading a hundred gigabytes from a bucket takes longer than to plan with them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.uri import Location

WHOLE_BYTES = 4 * 2**20
"""Files up to this size are read whole: configurations, tokenizers, small weights."""
_TENSOR_BLOCKS = 4
_TENSOR_BLOCK_BYTES = 512
_MOST_BLOCKS = WHOLE_BYTES // _TENSOR_BLOCK_BYTES
_FILE_BLOCKS = 256
_FILE_BLOCK_BYTES = 16 * 1024
_READERS = 16  # a bucket takes tens of milliseconds for each block
_MAX_HEADER_BYTES = 100_000_000  # as safetensors itself allows

_Block = tuple[int, int]
"""First byte and number of bytes."""


def content_of(folder: Location) -> list[list[Any]]:
    """Path, bytes and digest of each file below a folder, but for hidden ones and `__pycache__`.

    The digest is over all of a file up to 4 MiB. Of a larger one in safetensors it is over the
    header and four blocks of 512 bytes of every tensor, its first and last bytes among them (fewer
    blocks where a file has more than 2,048 tensors), of any other over 256 blocks of 16 KiB from
    its first to its last bytes. So it tells where any tensor was trained; an edit of single numbers
    in a large tensor it may miss.

    Of a model on the Hugging Face Hub they are those that are read, with the digests that the Hub
    tells, which are over all bytes.
    """
    if is_on_hub(folder.uri):
        from raymodel.storage.hub_model import files_of  # imports the client

        return [[each.name, each.bytes, each.digest] for each in files_of(folder.uri)]
    files = [entry for entry in folder.walk() if not _is_aside(entry.name)]
    with ThreadPoolExecutor(_READERS) as readers:
        return [
            [entry.name, entry.bytes, _digest(folder / entry.name, entry.bytes, readers)]
            for entry in files
        ]


def _is_aside(name: str) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))


def _digest(file: Location, size: int, readers: ThreadPoolExecutor) -> str:
    digest = hashlib.sha256()
    if size <= WHOLE_BYTES:
        digest.update(file.read_bytes())
    else:
        for data in readers.map(lambda block: file.read_range(*block), _blocks(file, size)):
            digest.update(data)
    return digest.hexdigest()


def _blocks(file: Location, size: int) -> list[_Block]:
    if file.name.endswith(".safetensors") and (found := _tensor_blocks(file, size)):
        return found
    return list(_spread(0, size, _FILE_BLOCKS, _FILE_BLOCK_BYTES))


def _tensor_blocks(file: Location, size: int) -> list[_Block]:
    """None where the file is none of safetensors: those who load it say so."""
    (length,) = struct.unpack("<Q", file.read_range(0, 8))
    if length > min(size, _MAX_HEADER_BYTES):
        return []
    try:
        header = json.loads(file.read_range(8, length))
        header.pop("__metadata__", None)
        tensors = sorted(tuple(each["data_offsets"]) for each in header.values())
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    every = -(-len(tensors) // _MOST_BLOCKS) or 1
    blocks = max(1, min(_TENSOR_BLOCKS, _MOST_BLOCKS // max(1, len(tensors))))
    found: list[_Block] = [(0, 8 + length)]
    for first, end in tensors[::every]:
        found += _spread(8 + length + first, 8 + length + end, blocks, _TENSOR_BLOCK_BYTES)
    return found


def _spread(first: int, end: int, blocks: int, block_bytes: int) -> Iterator[_Block]:
    """Blocks from the first bytes to the last, equally far from one another; all where that is no
    more."""
    if end - first <= blocks * block_bytes:
        yield first, max(0, end - first)
    elif blocks == 1:
        yield (first + end - block_bytes) // 2, block_bytes
    else:
        last = end - block_bytes
        for index in range(blocks):
            yield first + (last - first) * index // (blocks - 1), block_bytes
