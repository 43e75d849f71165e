"""Files that are read together with another one: the labels of its images, the names of classes."""

from __future__ import annotations

from raymodel.data.readers.content import Unreadable, open_content
from raymodel.data.record import FileSlice
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

CIFAR_NAMES = (
    "batches.meta.txt",
    "batches.meta",
    "coarse_label_names.txt",
    "fine_label_names.txt",
    "meta",
)
"""What the files with the names of classes are called, of CIFAR-10 and CIFAR-100."""


def names_beside(format: str, name: str) -> tuple[str, ...]:
    """What may lie beside a file of a format and decides what it gives, relative to the root."""
    if format == "idx":
        return (labels_name(name),)
    if format == "cifar":
        return tuple(name_beside(name, other) for other in CIFAR_NAMES)
    return ()


def labels_name(name: str) -> str:
    """The file of labels of an IDX file of images."""
    base = name.rpartition("/")[2]
    return name_beside(name, base.replace("images", "labels").replace("idx3", "idx1"))


def name_beside(name: str, other: str) -> str:
    """A file called `other` in the folder of `name`."""
    folder, slash, _ = name.rpartition("/")
    return f"{folder}{slash}{other}"


def read_beside(root: Location, name: str) -> bytes | None:
    """All of a file, unpacked; None when there is none.

    Raises:
        SourceError: it cannot be read, or is damaged.
    """
    place = root / name
    if not place.exists():
        return None
    size = place.size()
    with open_content(root, FileSlice(name, 0, size, size)) as content:
        try:
            return content.read_document()
        except Unreadable as fault:
            raise SourceError(
                f"{place} is a {fault.reason}; it is read with the files beside it and must be "
                "whole. Fetch it again"
            ) from fault
