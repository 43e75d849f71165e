"""A file in a bucket that is read while its store fails now and then."""

from __future__ import annotations

import io
from typing import Any

from raymodel.storage.retry import with_retries


class PatientFile(io.RawIOBase):
    """Bytes of an open file; each read is tried again where it fails (`retry.py`).

    What comes after a failed read would else be taken for what the file lacks: whoever reads a
    format has damage in mind, and many libraries tell one from the other in no way.
    """

    def __init__(self, stream: Any, what: str) -> None:
        """Args:
        stream: pyarrow's, whose reads from a place do not depend on those before.
        what: of `with_retries`.
        """
        self._stream, self._what = stream, what
        self._num_bytes, self._at = int(stream.size()), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._num_bytes}[whence]
        self._at = max(0, start + position)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._num_bytes - self._at)
        length = left if size < 0 else min(size, left)
        if not length:
            return b""
        data: bytes = with_retries(lambda: self._stream.read_at(length, self._at), self._what)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
