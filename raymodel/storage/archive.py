"""Zip and tar archives, read in place: `data.zip!/cats/1.png` is a file as any other.

Nothing is unpacked to a disk. A tar that is packed as a whole (`.tar.gz`) can only be read from its
beginning on, so its members are best asked for in their order in it; all others can be entered
anywhere.

What an archive says of itself is not trusted: it may not expand to much more than its size, and its
members' names lead nowhere but to themselves.
"""

from __future__ import annotations

import functools
import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from raymodel.errors import SourceError
from raymodel.storage.archive_stream import (
    BROKEN,
    DamagedMemberError,
    Forward,
    MemberStream,
    TarStream,
    Watched,
    check_expansion,
)

if TYPE_CHECKING:
    from raymodel.storage.uri import Location

MARK = "!"
"""Stands behind an archive's name where what follows lies in it."""
_PACKED = {
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.bz2": "bzip2",
    ".tar.xz": "xz",
    ".tar.zst": "zstd",
}
ARCHIVE_SUFFIXES = (".zip", ".tar", *_PACKED)
_ANY = "|".join(map(re.escape, ARCHIVE_SUFFIXES))
_PLACE = re.compile(rf"(.*?(?:{_ANY})){MARK}(?:/(.*))?", re.IGNORECASE | re.DOTALL)


def is_archive(name: str) -> bool:
    """By its name."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def split_place(place: str) -> tuple[str, str] | None:
    """`a/data.zip!/cats/1.png` → `("a/data.zip", "cats/1.png")`; None for what is in no archive."""
    found = _PLACE.fullmatch(place) if MARK in place else None
    return (found[1], (found[2] or "").rstrip("/")) if found else None


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of an archive."""

    bytes: int
    rank: int
    """Its place among the others where they should be read in their order; else 0."""
    begin: int = 0
    """In a tar: its first byte in what the archive is unpacked."""
    info: zipfile.ZipInfo | None = None
    """In a zip."""


@dataclass
class Archive:
    """What an archive holds, and the way into it."""

    changed_ns: int | None
    watched: Watched
    """Its bytes, as they lie there."""
    way: zipfile.ZipFile | Forward
    """Into a zip, or into a tar."""
    members: dict[str, Member] = field(default_factory=dict)
    """By path."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why → names of what is no file that can be read."""

    @functools.cached_property
    def folders(self) -> frozenset[str]:
        """That its members lie in, and it itself."""
        return frozenset({"", *(up for name in self.members for up in _folders_of(name))})

    def open(self, name: str) -> io.RawIOBase:
        """A member that can be read from any place on. Reading raises DamagedMemberError."""
        member = self.members[name]
        begin = functools.partial(self._begin, member)
        return MemberStream(member.bytes, begin, self.watched)

    def _begin(self, member: Member) -> IO[bytes]:
        if isinstance(self.way, Forward):
            tar = TarStream(self.way, member.begin, member.bytes)
            return io.BufferedReader(tar, 2**20)
        assert member.info is not None, "a member of a zip"
        if member.info.flag_bits & 1:
            raise DamagedMemberError("encrypted member of an archive")
        return self.way.open(member.info)

    def add(
        self,
        name: str,
        num_bytes: int,
        *,
        begin: int = 0,
        info: zipfile.ZipInfo | None = None,
        in_order: bool = False,
    ) -> None:
        """Enters a member under its path."""
        path = _clean(name)
        if path is None:
            self.leave_out("names that lead out of their archive", name)
        elif not is_utf8(path):
            self.leave_out("names that are not UTF-8", name)
        else:
            if self.members.pop(path, None) is not None:
                self.leave_out("earlier members of an archive with the name of a later one", name)
            rank = len(self.members) if in_order else 0
            self.members[path] = Member(bytes=num_bytes, rank=rank, begin=begin, info=info)

    def leave_out(self, reason: str, name: str) -> None:
        """What of the archive is no file that can be read."""
        shown = name.encode("utf-8", "backslashreplace").decode()
        self.left_out.setdefault(reason, []).append(shown)


def open_archive(place: Location) -> Archive:
    """The archive at a place, whose list is made once as long as it does not change.

    Raises:
        SourceError: it is none, is cut short, or expands to more than it may.
        StorageError: it is not there.
    """
    entry = place.entry()
    return _open(place, entry.bytes, entry.changed_ns)


@functools.lru_cache(maxsize=8)
def _open(place: Location, num_bytes: int, changed_ns: int | None) -> Archive:
    watched = Watched(place.open_input())
    try:
        if place.name.lower().endswith(".zip"):
            return _read_zip(place, changed_ns, watched, num_bytes)
        return _read_tar(place, changed_ns, watched, num_bytes)
    except SourceError:
        raise
    except BROKEN as error:
        if watched.has_failed:
            raise
        raise SourceError(
            f"{place} is no archive that can be read ({error}); one that is damaged or cut short "
            "is not read at all, since nothing says what it lacks. Fetch it again, or unpack what "
            "it has and name the folder"
        ) from error


def _read_zip(place: Location, changed_ns: int | None, watched: Watched, num_bytes: int) -> Archive:
    way = zipfile.ZipFile(io.BufferedReader(watched))
    archive, total = Archive(changed_ns, watched, way), 0
    for info in way.infolist():
        if info.is_dir():
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            archive.leave_out("links in an archive", info.filename)
        elif info.file_size:
            total += info.file_size
            check_expansion(place, total, num_bytes)
            archive.add(info.filename, info.file_size, info=info)
    return archive


def _read_tar(place: Location, changed_ns: int | None, watched: Watched, num_bytes: int) -> Archive:
    packer = next((p for suffix, p in _PACKED.items() if place.name.lower().endswith(suffix)), None)
    way = Forward(place, watched, num_bytes, packer)
    archive = Archive(changed_ns, watched, way)
    with tarfile.TarFile(fileobj=way, tarinfo=_Header) as tar:  # type: ignore[arg-type]
        for each in tar:
            if each.issym() or each.islnk():
                archive.leave_out("links in an archive", each.name)
            elif each.isreg() and each.size and not each.issparse():
                begin, in_order = each.offset_data, packer is not None
                archive.add(each.name, each.size, begin=begin, in_order=in_order)
            elif not each.isdir() and (each.size or not each.isreg()):
                archive.leave_out("neither files nor folders", each.name)
    return archive


class _Header(tarfile.TarInfo):
    """Tells a damaged header, and an end that is missing, from the end: `tarfile` stops at each."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"byte {tar.offset:,}: {error}") from error


def _clean(name: str) -> str | None:
    """A path without `./`, doubled or leading slashes; None where it leads out of the archive, or
    to nothing."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return None if ".." in parts or not parts else "/".join(parts)


def is_utf8(name: str) -> bool:
    """Whether a name of a file is text, as manifests and accounts need it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _folders_of(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
