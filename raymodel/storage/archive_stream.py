"""Streams over archives: their members, and a tar as it is unpacked."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from raymodel.errors import SourceError

if TYPE_CHECKING:
    from raymodel.storage.uri import Location

FREE_BYTES = 2**30
"""An archive may expand to so much in any case."""
MAX_EXPANSION = 200
"""Else to so many times its size: text packs to a tenth, tables to a fiftieth."""
REWOUND_BYTES = 2**28
"""A member up to this size is held in memory once it is read from the middle, as tables are."""
_KEPT_BYTES = 2**17  # what a look at a file takes, and more
_SKIP_BYTES = 2**20
BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError),
    *(ValueError, OverflowError, RuntimeError, IndexError, KeyError, AttributeError, TypeError),
)
"""What the modules of the standard library raise for bytes that are no archive, or are packed in a
way that they do not know."""


class DamagedMemberError(OSError):
    """A member of an archive that cannot be read to its end; the message is why, in words by which
    such members are counted."""


def check_expansion(place: Location, expanded: int, num_bytes: int) -> None:
    """Raises SourceError for an archive that expands to more than it may."""
    if expanded > max(FREE_BYTES, MAX_EXPANSION * num_bytes):
        raise SourceError(
            f"{place} has {num_bytes:,} bytes and expands to {expanded:,} or more; an archive may "
            f"expand to {FREE_BYTES:,} bytes or {MAX_EXPANSION} times its size, whichever is more, "
            "since a few bytes can be made to fill any memory. If it is what it should be, unpack "
            "it and name the folder"
        )


class Watched(io.RawIOBase):
    """Tells an error of the storage from one of what is in the file, which may be an OSError too.

    A member of an archive that is damaged ends at the damage, and `damage` says why.
    """

    def __init__(self, raw: Any) -> None:
        self._raw, self.has_failed = raw, False
        self.damage: str | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        return int(self._raw.seek(position, whence))

    def tell(self) -> int:
        return int(self._raw.tell())

    def readinto(self, buffer: Any) -> int:
        try:
            data = b"" if self.damage else self._raw.read(len(buffer))
            self.has_failed = False
        except DamagedMemberError as error:
            self.damage = str(error)
            return 0
        except OSError:
            self.has_failed = True
            raise
        buffer[: len(data)] = data
        return len(data)


class Forward:
    """A tar as it is unpacked. Going back in one that is packed begins it again."""

    def __init__(
        self, place: Location, watched: Watched, num_bytes: int, packer: str | None
    ) -> None:
        self._place, self._raw, self._num_bytes = place, watched, num_bytes
        self._packer, self._lock = packer, threading.RLock()
        self._stream, self._position = self._begin(), 0

    def read_at(self, position: int, length: int) -> bytes:
        """For members that are read by turns."""
        with self._lock:
            self.seek(position)
            return self.read(length)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        assert whence == 0, "nothing seeks from elsewhere"
        if self._packer is None:
            self._stream.seek(position)
            self._position = position
        elif position < self._position:
            self._stream, self._position = self._begin(), 0
        while self._position < position:
            if not self.read(min(_SKIP_BYTES, position - self._position)):
                break
        return self._position

    def read(self, length: int = -1) -> bytes:
        assert length >= 0, "nothing reads all of it"
        data = self._stream.read(length)
        self._position += len(data)
        if self._packer is not None:
            check_expansion(self._place, self._position, self._num_bytes)
        return data

    def _begin(self) -> IO[bytes]:
        self._raw.seek(0)
        if self._packer == "gzip":
            return gzip.GzipFile(fileobj=self._raw, mode="rb")  # type: ignore[return-value]
        if self._packer == "bzip2":
            return bz2.BZ2File(self._raw)
        if self._packer == "xz":
            return lzma.LZMAFile(self._raw)  # type: ignore[arg-type]
        if self._packer == "zstd":
            from pyarrow import CompressedInputStream

            # It closes what it reads from, so it gets a stream of its own.
            return CompressedInputStream(Watched(self._raw), "zstd")  # type: ignore[no-any-return]
        return io.BufferedReader(self._raw)


class TarStream(io.RawIOBase):
    """The bytes of a member of a tar, from its first."""

    def __init__(self, tar: Forward, begin: int, num_bytes: int) -> None:
        self._tar, self._position, self._end = tar, begin, begin + num_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._end - self._position)
        data = self._tar.read_at(self._position, length) if length else b""
        self._position += len(data)
        buffer[: len(data)] = data
        return len(data)


class MemberStream(io.RawIOBase):
    """A member that is opened where it is first read.

    Its beginning is kept, since readers look at it and begin once more. What is not read from one
    end to the other is held in memory whole, unless it is too large: then it is begun again.
    """

    def __init__(self, num_bytes: int, begin: Callable[[], IO[bytes]], watched: Watched) -> None:
        self._num_bytes, self._begin, self._watched = num_bytes, begin, watched
        self._stream: IO[bytes] | None = None
        self._kept = b""
        self._at, self._position = 0, 0
        """Where the stream stands, and where the reader does."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        start = (0, self._position, self._num_bytes)[whence]
        self._position = max(0, start + position)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._num_bytes - self._position)
        if length <= 0:
            return 0
        try:
            data = self._read(length)
        except (DamagedMemberError, SourceError):
            raise
        except BROKEN as error:
            if self._watched.has_failed:  # the storage, not what is in the file
                raise
            raise DamagedMemberError("damaged member of an archive") from error
        if not data:
            raise DamagedMemberError("damaged member of an archive")
        self._position += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _read(self, length: int) -> bytes:
        if self._position >= len(self._kept) and self._position != self._at:
            self._jump()
        if self._position < len(self._kept):
            return self._kept[self._position : self._position + length]
        return self._take(length)

    def _jump(self) -> None:
        """Goes to where the reader is."""
        if self._num_bytes <= REWOUND_BYTES:
            if len(self._kept) < self._at:
                self._stream, self._at = None, 0
            while self._at < self._num_bytes and (data := self._take(self._num_bytes)):
                self._kept = self._kept[: self._at - len(data)] + data
            return
        if self._position < self._at:
            self._stream, self._at = None, 0
        while self._at < self._position:
            if not self._take(min(_SKIP_BYTES, self._position - self._at)):
                break

    def _take(self, length: int) -> bytes:
        """The next bytes of the stream."""
        if self._stream is None:
            self._stream = self._begin()
        data = self._stream.read(length)
        if len(self._kept) == self._at < _KEPT_BYTES:
            self._kept += data
        self._at += len(data)
        return data
