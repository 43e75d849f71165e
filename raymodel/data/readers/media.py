"""Images and sounds as the files that they are: encoded as they lie, under the name of their
folder."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.data.account import Account
from raymodel.data.readers.content import packed_suffix
from raymodel.data.readers.text import folder_label, read_bytes
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3")
MEDIA_SUFFIXES = dict.fromkeys(IMAGE_SUFFIXES, "image") | dict.fromkeys(AUDIO_SUFFIXES, "audio")
"""What a file's name ends in → the field that holds its bytes."""


def read_class_folders(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The file as the one record that it is. Whether it can be decoded, nobody looks here."""
    account.begin(piece.name)
    field = _field_of(piece.name)
    if field is None:  # only a file that the path names itself
        account.leave_out("file that is neither image nor sound by its suffix", piece.name)
        return
    label = folder_label(piece, account)
    data = None if label is None else read_bytes(root, piece, account)
    if data is not None:
        fields = {field: data, "label": label, "path": piece.name}
        yield RawRecord(fields, digest_of(data))


def _field_of(name: str) -> str | None:
    name = name.lower()
    _, dot, ending = name.removesuffix(packed_suffix(name)).rpartition(".")
    return MEDIA_SUFFIXES.get(dot + ending)
