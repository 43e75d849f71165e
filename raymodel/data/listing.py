"""The files below a folder of this machine, with its links followed and each file met once."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from raymodel.errors import SourceError
from raymodel.storage.archive import is_utf8
from raymodel.storage.filesystem import PART_SUFFIX

_MAX_LINKS = 10_000  # folders that are links; more of them is a web of links to one another
_NAMED = 3  # of those that are left out, in a message


@dataclass(frozen=True)
class FoundFile:
    """One file with something in it."""

    name: str
    """Path relative to the folder."""
    bytes: int
    changed_ns: int
    real_path: str
    """Without links: two names of one file have the same."""


@dataclass
class Listing:
    """What lies below a folder."""

    files: list[FoundFile] = field(default_factory=list)
    """Sorted by name."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why → names of what is no file that can be read."""

    def notes(self) -> tuple[str, ...]:
        """A sentence for each reason why something is left out."""
        return tuple(f"{reason}: {named(names)}" for reason, names in sorted(self.left_out.items()))


def named(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    first = sorted(names)[:_NAMED]
    more = f" and {len(names) - len(first):,} more" if len(names) > len(first) else ""
    return ", ".join(map(repr, first)) + more


def list_folder(folder: str, without: Collection[str] = ()) -> Listing:
    """All files below `folder` that are not empty.

    A link is followed, unless it leads to a folder that it lies in: its files would come again,
    under longer and longer names.

    Args:
        without: names of folders that are not entered.

    Raises:
        SourceError: a folder that may not be read.
    """
    listing = Listing()
    for entry, real_folder in _walk(folder, without, listing):
        try:
            status = entry.stat()
        except FileNotFoundError:
            _leave_out(listing, "links to nothing", folder, entry.path)
            continue
        except OSError:
            _leave_out(listing, "links to themselves", folder, entry.path)
            continue
        if not stat.S_ISREG(status.st_mode):
            _leave_out(listing, "neither files nor folders", folder, entry.path)
        elif not is_utf8(entry.path):
            _leave_out(listing, "names that are not UTF-8", folder, entry.path)
        elif status.st_size and not entry.name.endswith(PART_SUFFIX):
            name = entry.path[len(folder) :].lstrip("/")
            real_path = f"{real_folder}/{entry.name}"
            if entry.is_symlink():
                real_path = os.path.realpath(entry.path)
            listing.files.append(FoundFile(name, status.st_size, status.st_mtime_ns, real_path))
    listing.files.sort(key=lambda file: file.name)
    return listing


# Its path, its real path, and what identifies it and the folders that it lies in.
_Folder = tuple[str, str, tuple[tuple[int, int], ...]]


def _walk(
    folder: str, without: Collection[str], listing: Listing
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What is no folder, with the real path of the folder that it lies in.

    Without recursion, because trees can be deep.
    """
    open_folders: list[_Folder] = [(folder, os.path.realpath(folder), (_identity(folder),))]
    num_links = 0
    while open_folders:
        path, real_path, inside = open_folders.pop()
        for entry in _entries(path):
            if not _is_folder(entry):
                yield entry, real_path
            elif entry.name not in without:
                is_link, here = entry.is_symlink(), _identity(entry.path)
                num_links += is_link
                if here in inside:
                    _leave_out(listing, "links to a folder that they lie in", folder, entry.path)
                elif num_links > _MAX_LINKS:
                    raise SourceError(
                        f"{folder} holds more than {_MAX_LINKS:,} links to folders, such as "
                        f"{entry.path}; they seem to lead to one another. Remove them, or name "
                        "the folders in `path`"
                    )
                else:
                    real = os.path.realpath(entry.path) if is_link else f"{real_path}/{entry.name}"
                    open_folders.append((entry.path, real, (*inside, here)))


def _entries(path: str) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except FileNotFoundError:  # deleted since its own folder was read: as if it had been before
        return []
    except OSError as error:
        raise SourceError(
            f"the folder {path} cannot be listed ({error.strerror}); all of a source must be "
            "readable. Change its permissions, or `path`"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _leave_out(listing: Listing, reason: str, folder: str, path: str) -> None:
    name = os.path.relpath(path, folder).encode("utf-8", "backslashreplace").decode()
    listing.left_out.setdefault(reason, []).append(name)
