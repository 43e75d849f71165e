"""Where lines are appended: a file on a disk, or an object in a bucket that is put again."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from raymodel.storage.filesystem import replace_file
from raymodel.storage.uri import Location

logger = logging.getLogger(__name__)

_PUT_EVERY_S = 5.0
_PUT_TIME_FRAC = 0.05  # a growing object on a slow bucket is put more rarely
_CLOSE_TRIES = 5


class DiskLines:
    """Lines in a local file, each flushed as it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115 - open for as long as this object
        self._cut_torn_line()

    def append(self, line: bytes) -> None:
        """Adds one line, which ends in a newline."""
        self._file.write(line)
        self._file.flush()

    def read(self) -> bytes:
        """All lines."""
        return self._path.read_bytes()

    def replace(self, data: bytes) -> None:
        """Puts other lines in place of all, atomically."""
        self._file.close()
        replace_file(self._path, lambda stream: stream.write(data))
        self._file = open(self._path, "ab")  # noqa: SIM115

    def close(self) -> None:
        """Forces the lines to disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _cut_torn_line(self) -> None:
        data = self.read()
        self._file.truncate(data.rfind(b"\n") + 1)


class BucketLines:
    """Lines of one object. A thread puts it beside the caller, who never waits for the bucket."""

    def __init__(self, location: Location) -> None:
        self._location = location
        data = location.read_bytes() if location.exists() else b""
        self._data = bytearray(data[: data.rfind(b"\n") + 1])
        self._changed = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
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

    def close(self) -> None:
        """Puts what is left, trying a few times.

        Raises:
            OSError: when the bucket refuses it to the end.
        """
        self._closing.set()
        self._thread.join()
        for tries_left in reversed(range(_CLOSE_TRIES)):
            try:
                return self._put()
            except OSError:
                if not tries_left:
                    raise
                time.sleep(2.0 ** (_CLOSE_TRIES - tries_left - 1))

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
        with self._lock:
            if not self._changed:
                return
            data, self._changed = bytes(self._data), False
        try:
            self._location.write_bytes(data)
        except OSError:
            with self._lock:
                self._changed = True
            raise
