"""Location: one file or folder on a disk or in a bucket.

Everything that raymodel reads or writes goes through here. A location is only a string: the
pyarrow file system behind it is made on first use in each process, so a location pickles, and
importing this module costs nothing. Credentials come from the environment, never from the URI.

Errors: a missing file is a `StorageError`. In a bucket all that is done is tried again where the
store fails for a moment, also each read of a file that is open; when it does not recover,
`StorageUnavailableError` is raised. Who cannot wait for it, or tells of it, does so in `retry.py`'s
ways.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from raymodel.errors import ArtifactError, LocationError, StorageError
from raymodel.storage.archive import MARK, split_place
from raymodel.storage.filesystem import (
    PART_SUFFIX,
    SCHEMES,
    check_no_secret,
    open_filesystem,
    replace_file,
)
from raymodel.storage.patient import PatientFile
from raymodel.storage.retry import one_try, with_retries

T = TypeVar("T")

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

CHUNK_BYTES = 8 * 2**20  # S3 takes no smaller part than 5 MiB but the last


class Entry(NamedTuple):
    """One line of a listing."""

    name: str
    """The name in its folder (`list`), or the path relative to the start (`walk`)."""
    bytes: int
    """Size of a file; 0 for a folder."""
    is_dir: bool
    changed_ns: int | None = None
    """When it was written last, in nanoseconds since 1970 (object stores tell whole seconds); None
    where the storage does not say, as for a bucket's folders."""


# An alias, because inside the class the name `list` is a method.
Listing = list[Entry]


@dataclass(frozen=True, order=True)
class Location:
    """A place that may or may not exist yet. Make one with `Location.parse`."""

    uri: str
    """An absolute path for local disks, else `scheme://authority/path[?options]`. In an archive
    `!` stands behind its name: `/data.zip!/cats/1.png`."""

    @classmethod
    def parse(cls, uri: str, base: Path | None = None) -> Location:
        """Reads a path or URI as a person writes it.

        Args:
            uri: a local path, `file://…`, `s3://bucket/…`, `gs://…`, `abfs://…`, `hdfs://…`, or
                `hf://datasets/…`, where nothing is written.
            base: where relative paths start; the current directory when None.

        Raises:
            LocationError: for an unknown scheme, no bucket, or credentials inside the URI.
        """
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme == "file":
            path = _at_home(Path(rest if separator else uri))
            return cls(os.path.abspath(path if base is None else base / path))
        if scheme not in SCHEMES:
            raise LocationError(
                f"{uri!r}: the scheme {scheme!r} is unknown; use a local path, "
                + ", ".join(f"{name}://" for name in SCHEMES)
            )
        place, question, options = rest.partition("?")
        authority, _, path_in_store = place.partition("/")
        check_no_secret(scheme, authority, options)
        if not authority and scheme != "hdfs":
            raise LocationError(f"{uri!r} names no bucket; write {scheme}://BUCKET/FOLDER")
        tail = "/".join(part for part in path_in_store.split("/") if part)
        return cls(f"{scheme}://{authority}/{tail}{question}{options}")

    def __truediv__(self, name: str) -> Location:
        parts = [part for part in name.split("/") if part]
        assert parts, "an empty name would be the location itself"
        assert ".." not in parts, f"{name!r} does not lie below {self}"
        place, options = self._place_and_options
        return Location(f"{place.rstrip('/')}/{'/'.join(parts)}{options}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._place_and_options[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The folder that holds this location."""
        place, options = self._place_and_options
        return Location((place.rstrip("/").rpartition("/")[0] or "/") + options)

    @property
    def is_local(self) -> bool:
        """Whether this is a path on a disk that this machine mounts."""
        return "://" not in self.uri and not self.is_in_archive

    @property
    def is_in_archive(self) -> bool:
        """Whether this is an archive's inside, which is read and never written."""
        return split_place(self._place_and_options[0]) is not None

    @property
    def archive(self) -> tuple[Location, str]:
        """Of what lies in an archive: the archive, and the path in it."""
        place, options = self._place_and_options
        found = split_place(place)
        assert found is not None, "the caller looked"
        return Location(found[0] + options), found[1]

    @property
    def inside(self) -> Location:
        """Of an archive: where its members lie."""
        place, options = self._place_and_options
        return Location(f"{place}{MARK}{options}")

    @property
    def local_path(self) -> Path:
        """The path on this machine's disk.

        Raises:
            LocationError: when the location is in a bucket.
        """
        if not self.is_local:
            raise LocationError(f"{self} is not on a local disk; a local folder is needed here")
        return Path(self.uri)

    @property
    def _place_and_options(self) -> tuple[str, str]:
        """The URI without its options, and the options with their question mark."""
        if "://" not in self.uri:  # a question mark in a file name is only a character
            return self.uri, ""
        place, question, options = self.uri.partition("?")
        return place, question + options

    @property
    def _filesystem(self) -> FileSystem:
        return open_filesystem(self._root)[0]

    @property
    def _root(self) -> str:
        """Scheme, authority and options, which decide the file system; "" for local disks."""
        place, options = self._place_and_options
        if (found := split_place(place)) is not None:
            return f"{found[0]}{options}{MARK}"
        if self.is_local:
            return ""
        scheme, _, rest = place.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{options}"

    @property
    def _path(self) -> str:
        """The path as the file system wants it."""
        if (found := split_place(self._place_and_options[0])) is not None:
            return found[1]
        if self.is_local:
            return self.uri
        path_in_store = self._place_and_options[0].partition("://")[2].partition("/")[2]
        return f"{open_filesystem(self._root)[1].rstrip('/')}/{path_in_store}".rstrip("/")

    # ---- reading -------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether a file or folder is here. A bucket's folder exists while a file is in it."""
        from pyarrow.fs import FileType

        info = self._retry(lambda: self._filesystem.get_file_info(self._path), "looking for")
        return bool(info.type != FileType.NotFound)

    def entry(self) -> Entry:
        """Name, size and age of this file.

        Raises:
            StorageError: when there is no file here.
        """
        info = self._retry(lambda: self._filesystem.get_file_info(self._path), "looking for")
        if not info.is_file:
            raise _missing(self)
        return Entry(self.name, int(info.size), False, info.mtime_ns)

    def size(self) -> int:
        """Bytes in this file.

        Raises:
            StorageError: when there is no file here.
        """
        return self.entry().bytes

    def open_input(self, *, memory_map: bool = False) -> NativeFile:
        """A random-access file for pyarrow readers.

        Args:
            memory_map: map a local file into memory (no copy); plain reads elsewhere.
        """
        if memory_map and self.is_local:
            from pyarrow import memory_map as open_memory_map

            return self._guard(lambda: open_memory_map(self.uri))
        stream = self._retry(
            lambda: self._guard(lambda: self._filesystem.open_input_file(self._path)), "opening"
        )
        if self.is_local or self.is_in_archive:
            return stream
        from pyarrow import PythonFile

        return PythonFile(PatientFile(stream, f"reading {self}"), mode="r")

    def read_bytes(self) -> bytes:
        """The whole file."""

        def read() -> bytes:
            with self.open_input() as stream:
                return bytes(stream.read())

        return self._retry(read, "reading")

    def read_range(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer when the file ends before."""

        def read() -> bytes:
            with self.open_input() as stream:
                stream.seek(min(start, stream.size()))
                return bytes(stream.read(length))

        return self._retry(read, "reading")

    def read_text(self) -> str:
        """The whole file as UTF-8 text."""
        return self.read_bytes().decode()

    def read_json(self) -> Any:
        """The whole file as JSON.

        Raises:
            ArtifactError: when it is not JSON, as after a cut or an edit.
        """
        try:
            return json.loads(self.read_bytes())
        except ValueError as error:
            raise ArtifactError(
                f"{self} is not valid JSON ({error}); it was cut short or edited. "
                "Restore it, or delete its folder and run again"
            ) from error

    def list(self) -> Listing:
        """What lies directly in this folder, by name; empty when the folder does not exist.

        Names that are not UTF-8 are passed over, here and in `walk`.
        """
        return self._entries(recursive=False)

    def walk(self) -> Listing:
        """All files below this folder, with paths relative to it; empty when it does not exist."""
        return [entry for entry in self._entries(recursive=True) if not entry.is_dir]

    def _entries(self, *, recursive: bool, parts: bool = False) -> Listing:
        from pyarrow.fs import FileSelector, FileType

        base = self._path.rstrip("/") + "/"
        selector = FileSelector(self._path, recursive=recursive, allow_not_found=True)
        found = self._retry(lambda: self._filesystem.get_file_info(selector), "listing")
        entries = [
            Entry(
                path.removeprefix(base),
                info.size or 0,
                info.type == FileType.Directory,
                info.mtime_ns,
            )
            for info in found
            if (path := _path_of(info)) is not None
        ]
        return sorted(entry for entry in entries if entry.name.endswith(PART_SUFFIX) == parts)

    def _retry(self, action: Callable[[], T], doing: str) -> T:
        """Local disks do not fail for a moment; where one is full or gone, waiting hides it. An
        archive in a bucket is opened with tries of its own."""
        tries = not (self.is_local or self.is_in_archive)
        return with_retries(action, f"{doing} {self}") if tries else action()

    def _guard(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(self) from error

    # ---- writing -------------------------------------------------------------------------------

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Writes the whole file: afterwards it holds the old or the new content, never a part."""
        self._retry(lambda: self._write(lambda stream: stream.write(data)), "writing")

    def write_text(self, text: str) -> None:
        """Writes UTF-8 text, atomically."""
        self.write_bytes(text.encode())

    def write_json(self, data: Any) -> None:
        """Writes JSON, atomically. NaN and infinity are refused: they are not JSON."""
        self.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")

    def upload(self, local_file: Path) -> None:
        """Copies a file of this machine here, atomically and in constant memory."""
        with open(local_file, "rb") as source:

            def put() -> None:
                source.seek(0)
                self._write(lambda stream: shutil.copyfileobj(source, stream, CHUNK_BYTES))

            self._retry(put, "writing")

    def _write(self, fill: Callable[[Any], object]) -> None:
        if self.is_local:
            replace_file(Path(self.uri), fill)
            return
        # Object stores show an object only once it is whole; on HDFS a reader may see it grow,
        # which the sizes in the manifest find out.
        # As it is, whatever the name: by default what is called `.gz` would be packed once more.
        stream = self._filesystem.open_output_stream(self._path, compression=None)
        try:
            fill(stream)
        except BaseException:
            # pyarrow has no abort: closing publishes what was sent, so take it away again.
            with suppress(OSError):
                stream.close()
                self._filesystem.delete_file(self._path)
            raise
        stream.close()

    def make_dir(self) -> None:
        """Makes this folder and those above it. Buckets need none, so nothing is written there."""
        if self.is_local:
            Path(self.uri).mkdir(parents=True, exist_ok=True)

    def delete_file(self) -> None:
        """Deletes this file; nothing happens when it is already gone."""
        self._delete(lambda: self._filesystem.delete_file(self._path))

    def delete_tree(self) -> None:
        """Deletes this folder and all in it; nothing happens when it is already gone."""
        self._delete(lambda: self._filesystem.delete_dir(self._path))

    def _delete(self, action: Callable[[], None]) -> None:
        def delete() -> None:
            with suppress(FileNotFoundError):
                action()

        self._retry(delete, "deleting")

    def delete_parts(self) -> None:
        """Deletes what killed writers left half-written below this folder."""
        if self.is_local:
            for entry in self._entries(recursive=True, parts=True):
                (self / entry.name).delete_file()


def sha256(location: Location) -> str:
    """Hex digest of a file's content, read in chunks."""

    def read() -> str:
        digest = hashlib.sha256()
        with location.open_input() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    return location._retry(read, "reading")


def check_writable(location: Location) -> None:
    """Writes, reads back and deletes a small file below `location`.

    Raises:
        StorageError: when any of this fails; the message names the storage and the cause.
    """
    probe, content = location / f".probe-{secrets.token_hex(4)}", secrets.token_bytes(32)
    try:
        with one_try():
            probe.write_bytes(content)
        read_back = probe.read_bytes()
        probe.delete_file()
    except (OSError, StorageError) as error:
        raise StorageError(
            f"the storage {location} cannot be written ({error}); a run must be able to write, "
            "read and delete files there. Set `storage:` to another place, or check the "
            "permissions, the bucket's name and the credentials in the environment"
        ) from error
    if read_back != content:
        raise StorageError(
            f"the storage {location} gave back other bytes than were written; it must be "
            "consistent after a write. Set `storage:` to another place"
        )


def _at_home(path: Path) -> Path:
    """`~` as the user's folder; in a container a user may have none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise LocationError(f"{str(path)!r}: {error}; write the whole path, or set HOME") from error


def _path_of(info: FileInfo) -> str | None:
    """None for a name that is not UTF-8: nothing that we write has one, and no URI can say it."""
    try:
        return str(info.path)
    except UnicodeDecodeError:
        return None


def _missing(location: Location) -> StorageError:
    return StorageError(
        f"{location} does not exist; it must be a readable file. Check the path, or run the "
        "stage that writes it"
    )
