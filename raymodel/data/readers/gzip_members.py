"""A gzip file of many members, each of which can be unpacked alone: a damaged one costs only
itself, and a large file can be entered in the middle."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import IO, Any

_MAGIC = b"\x1f\x8b\x08"
_CHUNK_BYTES = 2**16
_GZIP = 31  # zlib's window bits for a gzip header and trailer
_LOOKED_AT = 512  # packed bytes that surely hold a member's first few


class Member(io.RawIOBase):
    """The unpacked bytes of one member. Where it is damaged they end."""

    def __init__(self, raw: Any, byte: int) -> None:
        self.ends_at: int | None = None
        """The byte after it, once it was read to its end; None where it is damaged."""
        self._raw, self._at = raw, byte
        self._unpacker = zlib.decompressobj(_GZIP)
        self._is_damaged = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (self._unpacker.eof or self._is_damaged):
            packed = self._unpacker.unconsumed_tail or self._next_chunk()
            if not packed:
                self._is_damaged = True
                break
            try:
                data = self._unpacker.decompress(packed, len(buffer))
            except zlib.error:
                self._is_damaged = True
                break
            if self._unpacker.eof:
                self.ends_at = self._at - len(self._unpacker.unused_data)
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _next_chunk(self) -> bytes:
        self._raw.seek(self._at)
        chunk: bytes = self._raw.read(_CHUNK_BYTES)
        self._at += len(chunk)
        return chunk


def open_member(raw: Any, byte: int) -> tuple[Member, IO[bytes]]:
    """The member that begins at a byte of a file, and a stream of what is in it."""
    member = Member(raw, byte)
    return member, io.BufferedReader(member, _CHUNK_BYTES)


def begins_member(raw: Any, byte: int, content: bytes) -> bool:
    """Whether a member that begins with these unpacked bytes begins at a byte of a file."""
    raw.seek(byte)
    packed = raw.read(_LOOKED_AT)
    if not packed.startswith(_MAGIC):
        return False
    try:
        return zlib.decompressobj(_GZIP).decompress(packed, len(content)) == content
    except zlib.error:
        return False


def find_members(raw: Any, start: int, end: int, content: bytes) -> Iterator[int]:
    """The bytes, from `start` to before `end`, at which such a member begins."""
    at = start
    while at < end:
        raw.seek(at)
        # What of the magic lies beyond belongs to a member that begins before the end.
        chunk = raw.read(min(_CHUNK_BYTES, end - at) + len(_MAGIC) - 1)
        found = chunk.find(_MAGIC)
        if found < 0 or at + found >= end:
            at += max(1, len(chunk) - len(_MAGIC) + 1)
            continue
        at += found
        if begins_member(raw, at, content):
            yield at
        at += 1
