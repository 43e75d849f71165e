"""The bytes of a source file as its writer meant them: unpacked, and no more than memory holds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any

from raymodel.data.account import Account
from raymodel.data.record import FileSlice
from raymodel.errors import SourceError, StorageError
from raymodel.storage.archive_stream import DamagedMemberError, Watched
from raymodel.storage.uri import Location

HEAD_BYTES = 2**16
"""Of a file, to see what it is."""
MAX_DOCUMENT_BYTES = 2**30
"""Of one document after unpacking; a longer one would fill the memory of a worker."""
_BUFFER_BYTES = 2**20
_UNPACKED_BYTES = 2**14  # at a time; with more, no packer is faster


def _open_arrow(raw: Any, codec: str) -> IO[bytes]:
    from pyarrow import CompressedInputStream

    stream: IO[bytes] = CompressedInputStream(raw, codec)
    return stream


_PACKERS: dict[str, tuple[bytes, str, Callable[[Any], Any]]] = {
    "gzip": (b"\x1f\x8b\x08", ".gz", lambda raw: gzip.GzipFile(fileobj=raw, mode="rb")),
    "bzip2": (b"BZh", ".bz2", bz2.BZ2File),
    "xz": (b"\xfd7zXZ\0", ".xz", lzma.LZMAFile),
    "Zstandard": (b"\x28\xb5\x2f\xfd", ".zst", lambda raw: _open_arrow(raw, "zstd")),
    "LZ4": (b"\x04\x22\x4d\x18", ".lz4", lambda raw: _open_arrow(raw, "lz4")),  # of frames
}
"""Name → how its files begin, how their names end, and what unpacks them."""
# "BZh" alone could begin a text; a digit and pi or the root of pi follow it in a bzip2 file.
_BZIP2_NEXT = (b"1AY&SY", b"\x17rE8P\x90")


def packed_suffix(name: str) -> str:
    """`.gz` and the like at the end of a file's name; "" without one."""
    endings = (ending for _, ending, _ in _PACKERS.values() if name.lower().endswith(ending))
    return next(endings, "")


class Unreadable(Exception):
    """A file, or a record of it, that is left out."""

    def __init__(self, reason: str, sample: object = "") -> None:
        """What `Account.leave_out` is told."""
        super().__init__(reason)
        self.reason, self.sample = reason, sample


class Content:
    """An open file."""

    def __init__(self, raw: Any, piece: FileSlice, *, is_member: bool = False) -> None:
        self.is_member = is_member
        """Whether it lies in an archive, and cannot be entered in the middle."""
        self._raw = Watched(raw) if is_member else raw
        self._unpacked: _Unpacked | None = None
        self.head: bytes = self._raw.read(HEAD_BYTES)
        """The first bytes, unpacked."""
        self.packer = _packer_of(self.head, piece.name)
        """What the file is packed with."""
        self._is_in_head = self.packer is None and len(self.head) == piece.file_bytes
        if self.packer is not None:
            # Unpacked once for the head and once from the start: not all can be rewound.
            self.head = self._open().read(HEAD_BYTES)

    @cached_property
    def stream(self) -> IO[bytes]:
        """At the start of the unpacked bytes."""
        return self._open()

    @property
    def damage(self) -> str | None:
        """Why the stream ended before its end, once it did."""
        of_member = self._raw.damage if self.is_member else None
        return of_member or (self._unpacked.damage if self._unpacked else None)

    def read_document(self) -> bytes:
        """All bytes.

        Raises:
            Unreadable: the file is damaged, or holds more than a document may have.
        """
        if self._is_in_head:
            return self.head
        parts, room = [], MAX_DOCUMENT_BYTES
        while part := self.stream.read(_BUFFER_BYTES):
            room -= len(part)
            if room < 0:
                raise Unreadable(f"document of more than {MAX_DOCUMENT_BYTES:,} bytes")
            parts.append(part)
        if self.damage is not None:
            raise Unreadable(self.damage, b"".join(parts))
        return b"".join(parts)

    def _open(self) -> IO[bytes]:
        self._raw.seek(0)
        if self.packer is not None:
            self._unpacked = _Unpacked(self._raw, self.packer)
        return io.BufferedReader(self._unpacked or self._raw, _BUFFER_BYTES)


@contextmanager
def open_content(root: Location, piece: FileSlice) -> Iterator[Content]:
    """The file of a slice.

    Raises:
        SourceError: the file is gone, may not be read, or is not the one that was listed.
    """
    with open_file(root, piece) as raw:
        yield Content(raw, piece, is_member=(root / piece.name).is_in_archive)


@contextmanager
def open_file(root: Location, piece: FileSlice) -> Iterator[Any]:
    """The file of a slice as it lies there, packed or not. Raises as `open_content` does."""
    location = root / piece.name
    try:
        raw = location.open_input()
    except StorageError as error:
        raise SourceError(
            f"{location} was listed and is gone; the files of a source must stay while they are "
            "read. Run again when nothing changes them"
        ) from error
    except (PermissionError, IsADirectoryError) as error:
        raise SourceError(
            f"{location} cannot be read ({error.strerror or error}); all files of a source must be "
            "readable on every node. Change its permissions, or `path`"
        ) from error
    with raw:
        if raw.size() != piece.file_bytes:
            raise SourceError(
                f"{location} had {piece.file_bytes:,} bytes when it was listed and has "
                f"{raw.size():,} now; the files of a source must not change while they are read. "
                "Run again when nothing writes to it"
            )
        yield raw


def read_ends(
    raw: Any, num_first: int, num_last: int, piece: FileSlice, account: Account
) -> tuple[bytes, bytes] | None:
    """The first and the last bytes of a table; None, left out, where it is a member of an archive
    that cannot be read."""
    try:
        return raw.read(num_first), raw.read_at(num_last, max(0, piece.file_bytes - num_last))
    except DamagedMemberError as error:
        account.begin(piece.name)
        account.leave_out(str(error))
        return None


def _packer_of(head: bytes, name: str) -> str | None:
    """By its first bytes; else by its name, and then it is damaged at its first byte."""
    for packer, (magic, _, _) in _PACKERS.items():
        if head.startswith(magic) and (packer != "bzip2" or head[4:10] in _BZIP2_NEXT):
            return packer
    suffix = packed_suffix(name)
    return next((p for p, (_, ending, _) in _PACKERS.items() if ending == suffix), None)


class _Unpacked(io.RawIOBase):
    """Unpacked bytes. Where the file is damaged they end, and `damage` says why."""

    def __init__(self, raw: Any, packer: str) -> None:
        self.damage: str | None = None
        self._packer = packer
        self._raw = Watched(raw)
        try:
            self._stream = _PACKERS[packer][2](self._raw)
        except (OSError, EOFError) as error:
            self._fail(error)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self.damage is not None:
            return 0
        try:
            # In small parts: a part that ends in damage is lost whole.
            data = self._stream.read1(min(len(buffer), _UNPACKED_BYTES))
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            self._fail(error)
            return 0
        buffer[: len(data)] = data
        return len(data)

    def _fail(self, error: Exception) -> None:
        if self._raw.has_failed:  # the storage, not what is in the file
            raise error
        self.damage = f"damaged {self._packer} file"
