"""The lines of a file that grows: from where it was left, and no more than fits into memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

_CHUNK_BYTES = 2**16
_HEAD_BYTES = 256  # tell a file from another one at the same place
SETTLED_S = 5.0
"""A last line without an end is taken as whole when its file has not changed for so long."""

TOO_LONG = None
"""Stands for a line that was longer than allowed; it is passed over."""


class Mark(NamedTuple):
    """How far a file has been read."""

    path: str
    inode: str
    """Which file it is, whatever its name."""
    offset: int
    """Where the next line begins, in bytes."""
    head: str
    """Digest of its first bytes, of those before `offset`."""
    is_within: bool = False
    """The line at `offset` is the rest of one that was too long."""

    def save(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict()


def mark_of(saved: dict[str, Any]) -> Mark:
    """What `Mark.save` gave."""
    return Mark(**saved)


def inode_of(stat: os.stat_result) -> str:
    """What stays the same when a file is renamed."""
    return f"{stat.st_dev}:{stat.st_ino}"


def begin(path: Path, stat: os.stat_result) -> Mark:
    """The mark of a file that has not been read."""
    return Mark(str(path), inode_of(stat), 0, "")


def is_same(mark: Mark, path: Path, stat: os.stat_result) -> bool:
    """Whether a file is the one that was read, grown perhaps: systems give the numbers of files
    that were deleted to new ones, and some programs empty their file to begin again."""
    if inode_of(stat) != mark.inode or stat.st_size < mark.offset:
        return False
    return _head(path, mark.offset) == mark.head


def read_lines(
    mark: Mark, path: Path, most: int, max_bytes: int, *, now_s: float
) -> tuple[list[bytes | None], Mark]:
    """The next lines of a file, without their ends; `TOO_LONG` for one that is longer than allowed.

    Args:
        most: lines at once.
        max_bytes: of a line.
        now_s: seconds since 1970.

    Returns:
        The lines, and the mark behind them. A line that has no end yet waits for it.
    """
    lines: list[bytes | None] = []
    offset, is_within = mark.offset, mark.is_within
    with open(path, "rb") as file:
        file.seek(offset)
        stat = os.fstat(file.fileno())
        rest = b""
        while len(lines) < most:
            chunk = file.read(_CHUNK_BYTES)
            rest += chunk
            parts = rest.split(b"\n")
            for part in parts[:-1]:
                if len(lines) == most:
                    break
                if not is_within:
                    lines.append(part if len(part) <= max_bytes else TOO_LONG)
                offset, is_within = offset + len(part) + 1, False
            if len(lines) == most:
                break
            rest = parts[-1]
            if len(rest) > max_bytes or (is_within and rest):
                if not is_within:
                    lines.append(TOO_LONG)
                offset, is_within, rest = offset + len(rest), True, b""
            if not chunk:
                break
        has_settled = now_s - stat.st_mtime >= SETTLED_S
        if rest and len(lines) < most and offset + len(rest) == stat.st_size and has_settled:
            lines.append(rest)
            offset += len(rest)
    return lines, mark._replace(
        path=str(path), offset=offset, head=_head(path, offset), is_within=is_within
    )


def _head(path: Path, offset: int) -> str:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(min(offset, _HEAD_BYTES)), digest_size=8).hexdigest()
