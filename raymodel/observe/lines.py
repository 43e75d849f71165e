"""Where lines are appended: a file on a disk, or an object in a bucket that is put again."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from pathlib import Path

from raymodel.storage.filesystem import replace_file
from raymodel.storage.retry import one_try, with_retries
from raymodel.storage.uri import Location

logger = logging.getLogger(__name__)

_PUT_EVERY_S = 5.0
_PUT_TIME_FRAC = 0.05  # a growing object on a slow bucket is put more rarely


class DiskLines:
    """Lines in a local file, each handed to the operating system as it is written.

    A disk that is full keeps nobody waiting: the lines stay in memory until it takes them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_unbuffered(path)
        self._pending = bytearray()
        self._lock = threading.Lock()
        self._cut_torn_line()

    def append(self, line: bytes) -> None:
        """Adds one line, which ends in a newline."""
        with self._lock:
            self._pending += line
            try:
                self._write_pending()
            except OSError as error:
                logger.warning("%s was not written, will be tried again: %s", self._path, error)

    def read(self) -> bytes:
        """All lines, those not written yet included."""
        with self._lock:
            return self._path.read_bytes() + self._pending

    def replace(self, data: bytes) -> None:
        """Puts other lines in place of all, atomically."""
        with self._lock:
            replace_file(self._path, lambda stream: stream.write(data))
            self._file.close()
            self._file, self._pending = _open_unbuffered(self._path), bytearray()

    def store(self) -> None:
        """Forces the lines to disk, trying a few times.

        Raises:
            StorageUnavailableError: when the disk refuses them to the end.
        """

        def write() -> None:
            with self._lock:
                self._write_pending()
                file = os.dup(self._file.fileno())
            try:
                os.fsync(file)  # unlocked: a slow disk holds up nobody who appends
            finally:
                os.close(file)

        with_retries(write, f"writing {self._path}")

    def close(self) -> None:
        """Stores the lines, like `store`, and ends."""
        if not self._file.closed:
            try:
                self.store()
            finally:
                self._file.close()

    def _write_pending(self) -> None:
        while self._pending:  # a disk that gets full takes a part
            del self._pending[: self._file.write(self._pending)]

    def _cut_torn_line(self) -> None:
        data = self._path.read_bytes()
        self._file.truncate(data.rfind(b"\n") + 1)


def _open_unbuffered(path: Path) -> io.FileIO:
    return open(path, "ab", buffering=0)  # open for as long as the lines are written


class BucketLines:
    """Lines of one object. A thread puts it beside the caller, who never waits for the bucket."""

    def __init__(self, location: Location) -> None:
        self._location = location
        data = location.read_bytes() if location.exists() else b""
        self._data = bytearray(data[: data.rfind(b"\n") + 1])
        self._changed = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._putting = threading.Lock()
        self._thread = threading.Thread(target=self._put_now_and_then, daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> None:
        """Adds one line, which ends in a newline."""
        with self._lock:
            self._data += line
            self._changed = True

    def read(self) -> bytes:
        """All lines, those not put yet included."""
        with self._lock:
            return bytes(self._data)

    def replace(self, data: bytes) -> None:
        """Puts other lines in place of all."""
        with self._lock:
            self._data = bytearray(data)
            self._changed = True

    def store(self) -> None:
        """Puts what is not there yet, trying a few times.

        Raises:
            StorageUnavailableError: when the bucket refuses it to the end.
        """
        with_retries(self._put, f"writing {self._location}")

    def close(self) -> None:
        """Stores the lines, like `store`, and ends."""
        self._closing.set()
        self._thread.join()
        self.store()

    def _put_now_and_then(self) -> None:
        wait_s = _PUT_EVERY_S
        while not self._closing.wait(wait_s):
            start = time.monotonic()
            try:
                self._put()
            except OSError as error:
                logger.warning("%s was not put, will be tried again: %s", self._location, error)
            wait_s = max(_PUT_EVERY_S, (time.monotonic() - start) / _PUT_TIME_FRAC)

    def _put(self) -> None:
        with self._putting:  # in the order of their ages: an older one must not come last
            with self._lock:
                if not self._changed:
                    return
                data, self._changed = bytes(self._data), False
            try:
                with one_try():  # who wants more, tries all of this again
                    self._location.write_bytes(data)
            except OSError:
                with self._lock:
                    self._changed = True
                raise
