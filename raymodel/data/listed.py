"""What lies at the path of a source: in a folder, a bucket, an archive, or one file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raymodel.data.listing import list_folder, named
from raymodel.storage.archive import is_archive, open_archive
from raymodel.storage.uri import Entry, Location

IN_ARCHIVE = "!/"
"""Between the name of an archive and that of a file in it."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Path relative to the source's root."""
    bytes: int
    changed_ns: int | None
    """When it was written last, or the archive that it lies in; None where the storage does not
    say."""
    real_path: str = ""
    """Without links, on a disk: two names of one file have the same."""
    rank: int = 0
    """Its place in an archive that can only be read from its beginning on."""

    @property
    def order(self) -> tuple[str, int, str]:
        """Files are read by it: by name, and those of such an archive as they lie in it."""
        archive, mark, _ = self.name.partition(IN_ARCHIVE)
        return archive if mark else "", self.rank, self.name


@dataclass(frozen=True)
class Listed:
    """What lies at a path."""

    root: Location
    """The folder."""
    files: list[SourceFile]
    """Those with something in them."""
    is_file: bool = False
    """Whether the path is the one file."""
    notes: tuple[str, ...] = ()
    """What is no file that can be read, a sentence each."""


def list_files(root: Location, without: frozenset[str] = frozenset()) -> Listed:
    """All files below a path; of an archive those in it.

    Args:
        without: names of folders of this machine that are not entered.

    Raises:
        SourceError: a folder may not be read, or an archive is none.
    """
    if root.is_in_archive:
        return _list_archive(root)
    if root.is_local and root.local_path.is_dir():
        found = list_folder(root.uri, without)
        files = [SourceFile(f.name, f.bytes, f.changed_ns, f.real_path) for f in found.files]
        return Listed(root, files, notes=found.notes())
    if not root.is_local:
        files = [source_file(entry) for entry in root.walk() if entry.bytes]
        if files:
            return Listed(root, files)
    if is_archive(root.name):
        return _list_archive(root.inside)
    entry = root.entry()
    return Listed(root.parent, [source_file(entry)] if entry.bytes else [], is_file=True)


def list_members(root: Location, archives: Iterable[SourceFile]) -> Listed:
    """The files in several archives below a folder, each read once though links give it more names.

    Raises:
        SourceError: one of them is no archive.
    """
    files, notes = list[SourceFile](), list[str]()
    first = {file.real_path or file.name: file for file in [*archives][::-1]}
    for each in sorted(first.values(), key=lambda file: file.name):
        listed = _list_archive((root / each.name).inside)
        notes += [f"{note}, of {each.name}" for note in listed.notes]
        files += [
            SourceFile(f"{each.name}{IN_ARCHIVE}{f.name}", f.bytes, f.changed_ns, rank=f.rank)
            for f in listed.files
        ]
    return Listed(root, files, notes=tuple(notes))


def source_file(entry: Entry) -> SourceFile:
    """As a listing of the storage tells it."""
    return SourceFile(entry.name, entry.bytes, entry.changed_ns)


def within(root: Location) -> str:
    """What stands before the names of a source's files, for people: of an archive its name."""
    if not root.is_in_archive:
        return ""
    archive, path = root.archive
    return f"{archive.name}{IN_ARCHIVE}{path}/" if path else f"{archive.name}{IN_ARCHIVE}"


def _list_archive(root: Location) -> Listed:
    place, path = root.archive
    archive = open_archive(place)
    if path in archive.members:
        return Listed(root.parent, [source_file(root.entry())], is_file=True)
    base = f"{path}/" if path else ""
    files = [
        SourceFile(name.removeprefix(base), each.bytes, archive.changed_ns, rank=each.rank)
        for name, each in archive.members.items()
        if name.startswith(base)
    ]
    left_out = sorted(archive.left_out.items())
    notes = tuple(f"{reason}: {named(names)}" for reason, names in left_out)
    return Listed(root, files, notes=notes)
