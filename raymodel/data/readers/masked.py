"""Images and their masks in two folders beside each other: `images/NAME.jpg`, `masks/NAME.png`."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.data.account import Account
from raymodel.data.readers.media import IMAGE_SUFFIXES
from raymodel.data.readers.text import read_bytes
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

_IMAGES, _MASKS = "images", "masks"


def read_mask_folders(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The image that a file is, with its mask; of a mask nothing, or left out without its image.

    Whether they can be decoded, nobody looks here.
    """
    if _other(piece.name, _MASKS, _IMAGES):
        if _find(root, piece.name, _MASKS, _IMAGES) is None:
            account.begin(piece.name)
            account.leave_out("mask without its image", piece.name)
        return
    account.begin(piece.name)
    if not _other(piece.name, _IMAGES, _MASKS):
        account.leave_out(f"file neither in a folder `{_IMAGES}` nor in `{_MASKS}`", piece.name)
        return
    mask = _find(root, piece.name, _IMAGES, _MASKS)
    if mask is None:
        account.leave_out("image without a mask", piece.name)
        return
    data = read_bytes(root, piece, account)
    found = None if data is None else _read_beside(root, mask, account)
    if data is not None and found is not None:
        fields = {"image": data, "mask": found, "path": piece.name}
        yield RawRecord(fields, digest_of(data))


def _read_beside(root: Location, name: str, account: Account) -> bytes | None:
    size = (root / name).size()
    return read_bytes(root, FileSlice(name, 0, size, size), account)


def _find(root: Location, name: str, here: str, there: str) -> str | None:
    """The file of the same name in the folder beside, whatever its name ends in."""
    stem = _other(name, here, there).rpartition(".")[0]
    names = (stem + each for suffix in IMAGE_SUFFIXES for each in (suffix, suffix.upper()))
    return next((each for each in names if (root / each).exists()), None)


def _other(name: str, here: str, there: str) -> str:
    """The path with the last folder called `here` replaced; empty where it lies in none."""
    *folders, file = name.split("/")
    if here not in folders:
        return ""
    last = len(folders) - 1 - folders[::-1].index(here)
    return "/".join([*folders[:last], there, *folders[last + 1 :], file])
