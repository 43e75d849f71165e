"""Folders and files whose texts are read as they come."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from raymodel.errors import StorageError
from raymodel.monitor.lines import Mark, begin, inode_of, is_same, mark_of, read_lines
from raymodel.monitor.spec import FollowSpec
from raymodel.monitor.state import State

_ENDINGS = {".txt": False, ".log": False, ".jsonl": True, ".ndjson": True}
"""Of the files of a folder that are read, and whether their lines are records."""
_MOST_FILES = 10_000  # each has a mark, and is looked at about once a second


class Line(NamedTuple):
    """A line of a file that is followed."""

    raw: bytes | None
    """`TOO_LONG` where it is."""
    is_record: bool
    """Whether it is to be JSON."""


class Source:
    """One folder or file.

    Args:
        spec: which.
        base_dir: where relative paths begin.
        state: knows how far its files were read.
        max_bytes: of a line.
        say: is told what is odd, once.
    """

    def __init__(
        self,
        spec: FollowSpec,
        base_dir: Path,
        state: State,
        max_bytes: int,
        say: Callable[[str], object],
    ) -> None:
        self.spec = spec
        self._path = base_dir / spec.path
        self._state, self._max_bytes, self._say = state, max_bytes, say
        self._name = str(self._path)
        self._marks = {f: mark_of(value) for f, value in state.marks(self._name).items()}
        self._sizes: dict[str, int] = {}
        self._round: deque[Path] = deque()
        """The files of the last listing whose turn is still to come."""
        self._said: set[str] = set()

    def take(self, most: int, now_s: float) -> tuple[list[Line], dict[str, Mark]]:
        """The next lines, of one file after the other, and the marks behind them.

        Args:
            most: so many; fewer when there are no more now.
            now_s: seconds since 1970.

        Raises:
            StorageError: the folder holds too many files.
        """
        lines: list[Line] = []
        marks: dict[str, Mark] = {}
        is_listed = False
        while len(lines) < most:
            if not self._round:
                if is_listed:
                    break
                self._round, is_listed = deque(self._list()), True
                continue
            path = self._round.popleft()
            try:
                found = self._read(path, most - len(lines), now_s, marks)
            except FileNotFoundError:
                continue
            except PermissionError:
                self._once(f"{path} may not be read by this user and is passed over")
                continue
            lines += [Line(raw, self._is_record(path)) for raw in found]
        return lines, marks

    def keep(self, marks: dict[str, Mark]) -> None:
        """What `take` gave has been dealt with; part of the caller's transaction."""
        self._marks |= marks
        self._state.set_marks(self._name, {file: mark.save() for file, mark in marks.items()})

    # ---- files ---------------------------------------------------------------------------------

    def _read(
        self, path: Path, most: int, now_s: float, marks: dict[str, Mark]
    ) -> list[bytes | None]:
        stat = path.stat()
        inode = inode_of(stat)
        self._sizes[inode] = stat.st_size
        mark = known = marks.get(inode) or self._marks.get(inode)
        if mark is not None and stat.st_size == mark.offset:
            return []
        if mark is None or not is_same(mark, path, stat):
            if mark is not None and path == Path(mark.path):
                self._say(f"{path} begins anew: it is shorter than it was, or another file")
            mark = begin(path, stat)
        lines, new = read_lines(mark, path, most, self._max_bytes, now_s=now_s)
        if new != known:
            marks[inode] = new
        return lines

    def _list(self) -> Iterator[Path]:
        """The files, those that were renamed before they were read to the end first."""
        paths = self._present()
        inodes = set()
        for path in paths:
            try:
                inodes.add(inode_of(path.stat()))
            except FileNotFoundError:
                continue
        missing = [inode for inode in self._marks if inode not in inodes]
        yield from self._renamed(missing)
        yield from paths

    def _present(self) -> list[Path]:
        if not self._path.is_dir():
            if not self._path.exists():
                self._once(f"waits for {self._path}, which is not there")
                return []
            return [self._path]
        found, others = [], set()
        with os.scandir(self._path) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_file():
                    continue
                path = Path(entry.path)
                if path.suffix in _ENDINGS or self.spec.format != "auto":
                    found.append(path)
                else:
                    others.add(path.suffix or path.name)
        if others:
            self._once(
                f"{self._path}: files that end in {', '.join(sorted(others)[:5])} are passed over; "
                f"read are {', '.join(_ENDINGS)}"
            )
        if len(found) > _MOST_FILES:
            raise StorageError(
                f"{self._path} holds {len(found):,} files, and at most {_MOST_FILES:,} are "
                "followed; take those away that have been read"
            )
        return sorted(found)

    def _renamed(self, missing: list[str]) -> Iterator[Path]:
        """Files that have a mark and another name now, as logs are rotated."""
        left = set(missing)
        if not left:
            return
        folder = self._path if self._path.is_dir() else self._path.parent
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    inode = inode_of(entry.stat()) if entry.is_file() else ""
                    if inode in left:
                        left.discard(inode)
                        yield Path(entry.path)
        except FileNotFoundError:
            return
        for inode in left:
            mark = self._marks[inode]
            if self._sizes.get(inode, 0) > mark.offset:
                rest = self._sizes[inode] - mark.offset
                self._once(f"{mark.path} was taken away, and its last {rest:,} bytes were not read")

    def _is_record(self, path: Path) -> bool:
        if self.spec.format != "auto":
            return self.spec.format == "jsonl"
        # A file that was rotated: app.jsonl.1.
        return next((_ENDINGS[end] for end in path.suffixes[::-1] if end in _ENDINGS), False)

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)
