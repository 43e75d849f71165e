"""Records: `metrics.jsonl` and `events.jsonl`, one JSON object a line.

They survive what training survives. A line that a killed process left torn is cut off when the
file is opened again and ignored by readers; a run that resumes at step n first drops the records
after n, so no step is held twice. One process writes a file at a time; anyone may read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from raymodel.observe.lines import BucketLines, DiskLines
from raymodel.storage.uri import Location

Record = dict[str, Any]


class RecordWriter:
    """Appends records to one file.

    On a local disk each record is handed to the operating system at once, so it outlives the
    process. In a bucket, where nothing can be appended, the lines stay in memory and the whole
    object is put every few seconds, by `store` and at the end; a killed process loses what came
    since. A storage that refuses loses nothing and keeps nobody waiting, until `store` or `close`.
    """

    def __init__(
        self, location: Location, check: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Opens or creates the file.

        Args:
            location: the file.
            check: called with each record before it is written, such as `metrics.check_record`.
        """
        self._check = check
        self._lines: DiskLines | BucketLines = (
            DiskLines(location.local_path) if location.is_local else BucketLines(location)
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record. NaN and infinity, which JSON lacks, become null."""
        if self._check is not None:
            self._check(record)
        self._lines.append(_encode(record))

    def truncate_after(self, step: int) -> int:
        """Drops the records of later steps, which a resumed run will make again.

        Args:
            step: the last step to keep. Records without a step stay.

        Returns:
            How many records were dropped.
        """
        lines = self._lines.read().splitlines(keepends=True)
        kept = [line for line in lines if (_decode(line) or {}).get("step", 0) <= step]
        if len(kept) < len(lines):
            self._lines.replace(b"".join(kept))
        return len(lines) - len(kept)

    def store(self) -> None:
        """Makes sure that all records so far are stored.

        Raises:
            StorageUnavailableError: when the storage refuses them at every try.
        """
        self._lines.store()

    def close(self) -> None:
        """Makes sure that all records are stored, and ends.

        Raises:
            StorageUnavailableError: when the storage refuses them at every try.
        """
        self._lines.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(location: Location) -> list[Record]:
    """All whole records of a file; empty when there is no file."""
    if not location.exists():
        return []
    whole, _, _ = location.read_bytes().rpartition(b"\n")
    return [record for line in whole.splitlines() if (record := _decode(line)) is not None]


class Follower:
    """Reads a file that another process writes, a piece at a time.

    When the writer drops records (`truncate_after`), the next `poll` gives those written in their
    place, and `was_cut` says so: a step does not tell, since it may have several records.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._offset = 0  # bytes read, always the end of a whole line
        self._lines: list[tuple[int, Record | None]] = []  # hash, and what it says
        self._last_line = b""
        self.was_cut = False
        """Whether the last `poll` found that records given before were dropped."""

    @property
    def records(self) -> list[Record]:
        """All that were given and stand still."""
        return [record for _, record in self._lines if record is not None]

    def poll(self) -> list[Record]:
        """The records that are new since the last call; empty when there are none."""
        self.was_cut = False
        if not self._location.exists():
            return []
        if self._was_rewritten():
            before = len(self._lines)
            lines = self._skip_known(self._whole_lines(0))
            self.was_cut = len(self._lines) < before
        else:
            lines = self._whole_lines(self._offset)
        new = [(hash(line), _decode(line)) for line in lines]
        self._lines += new
        self._offset += sum(map(len, lines))
        self._last_line = lines[-1] if lines else self._last_line
        return [record for _, record in new if record is not None]

    def _whole_lines(self, start: int) -> list[bytes]:
        data = self._location.read_range(start, max(0, self._location.size() - start))
        return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)

    def _was_rewritten(self) -> bool:
        length = len(self._last_line)
        return self._location.read_range(self._offset - length, length) != self._last_line

    def _skip_known(self, lines: list[bytes]) -> list[bytes]:
        known = 0
        for line, (line_hash, _) in zip(lines, self._lines, strict=False):
            if hash(line) != line_hash:
                break
            known += 1
        del self._lines[known:]
        self._offset = sum(len(line) for line in lines[:known])
        self._last_line = lines[known - 1] if known else b""
        return lines[known:]


def _encode(record: Mapping[str, Any]) -> bytes:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(finite, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _decode(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # torn by a power cut in the middle of the file; the others still count
    return record if isinstance(record, dict) else None
