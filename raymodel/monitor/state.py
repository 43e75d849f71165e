"""What a monitor knows, in one file: how far it has read, what it has counted, what it has to tell.

All that follows from a batch of texts is one transaction of SQLite. So a monitor that is killed at
any moment goes on after the last whole batch: no text is lost, none is counted twice, and no alert
is forgotten.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from raymodel.errors import StorageError

_TABLES = """
create table if not exists known (name text primary key, value text not null) without rowid;
create table if not exists marks (
    source text, file text, value text not null, primary key (source, file)) without rowid;
create table if not exists inbox (
    number integer primary key autoincrement, time_s real not null, body text not null);
create table if not exists outbox (
    number integer primary key autoincrement, value text not null);
"""


class Letter(NamedTuple):
    """A text that was sent and waits for the classifier."""

    number: int
    time_s: float
    """When it was taken, or when it says that it was written."""
    text: str


class Notice(NamedTuple):
    """What is to be told; its number is its name, and no other notice ever has it."""

    number: int
    value: dict[str, Any]


class State:
    """The file, which one process at a time can hold. Safe to use from several threads.

    Args:
        path: made where it does not exist; on a local disk, as its locks are the system's.

    Raises:
        StorageError: another process has it, or it is no such file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._is_within = False
        self._db = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
        try:
            # Held until this process ends, however it ends.
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = full")  # what is answered 202 is on the disk
            self._db.executescript(_TABLES)
            self._db.execute("begin immediate")
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise StorageError(
                f"{path} cannot be opened ({error}): another process monitors for this job, or the "
                "disk takes nothing. End that process, or give this job another `name`"
            ) from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StorageError(
                f"{path} is not what a monitor has written ({error}). Take it away: what was read "
                "before is then read again"
            ) from error

    def close(self) -> None:
        """Lets another process have it."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block, or nothing of it."""
        with self._lock:
            if self._is_within:
                yield
                return
            self._db.execute("begin immediate")
            self._is_within = True
            try:
                yield
            except BaseException:
                self._db.execute("rollback")
                raise
            else:
                self._db.execute("commit")
            finally:
                self._is_within = False

    # ---- values by name ------------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """What was put under a name; None when nothing was."""
        found = self._one("select value from known where name = ?", name)
        return None if found is None else json.loads(found[0])

    def put(self, name: str, value: Any) -> None:
        """Keeps a value, as JSON."""
        text = json.dumps(value, separators=(",", ":"))
        self._write("insert or replace into known values (?, ?)", name, text)

    def count(self, what: str, by: int = 1) -> None:
        """Adds to a number in `counts`."""
        with self.transaction():
            counts = self.counts()
            self.put("counts", counts | {what: counts.get(what, 0) + by})

    def counts(self) -> dict[str, int]:
        """What was counted, by its name."""
        return dict(self.get("counts") or {})

    # ---- how far files have been read ----------------------------------------------------------

    def marks(self, source: str) -> dict[str, dict[str, Any]]:
        """File → how far it was read."""
        rows = self._all("select file, value from marks where source = ?", source)
        return {file: json.loads(value) for file, value in rows}

    def set_marks(self, source: str, marks: Mapping[str, dict[str, Any] | None]) -> None:
        """Changes those of some files; None forgets one."""
        with self.transaction():
            for file, mark in marks.items():
                if mark is None:
                    self._write("delete from marks where source = ? and file = ?", source, file)
                else:
                    value = json.dumps(mark)
                    self._write(
                        "insert or replace into marks values (?, ?, ?)", source, file, value
                    )

    # ---- texts that were sent ------------------------------------------------------------------

    def num_letters(self) -> int:
        """Those that wait."""
        return int(self._one("select count(*) from inbox")[0])

    def add_letters(self, letters: Sequence[tuple[float, str]]) -> None:
        """Takes texts, each with its time; afterwards they are on the disk."""
        with self.transaction():
            for time_s, text in letters:
                self._write("insert into inbox (time_s, body) values (?, ?)", time_s, text)

    def letters(self, most: int) -> list[Letter]:
        """The oldest of those that wait."""
        rows = self._all("select number, time_s, body from inbox order by number limit ?", most)
        return [Letter(*row) for row in rows]

    def drop_letters(self, last: int) -> None:
        """Forgets those up to a number."""
        self._write("delete from inbox where number <= ?", last)

    # ---- what is to be told --------------------------------------------------------------------

    def add_notice(self, value: dict[str, Any]) -> None:
        """Puts it behind the others."""
        self._write("insert into outbox (value) values (?)", json.dumps(value))

    def notices(self) -> list[Notice]:
        """All that are not done with, the oldest first."""
        rows = self._all("select number, value from outbox order by number")
        return [Notice(number, json.loads(value)) for number, value in rows]

    def change_notice(self, number: int, value: dict[str, Any]) -> None:
        """How far it has come."""
        self._write("update outbox set value = ? where number = ?", json.dumps(value), number)

    def drop_notice(self, number: int) -> None:
        """It is done with."""
        self._write("delete from outbox where number = ?", number)

    # ---- SQL -----------------------------------------------------------------------------------

    def _write(self, sql: str, *values: Any) -> None:
        with self.transaction():
            self._db.execute(sql, values)

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: Any) -> Any:
        rows = self._all(sql, *values)
        return rows[0] if rows else None
