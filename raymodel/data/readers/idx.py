"""IDX, the format of MNIST: a file of images, and one of their labels beside it.

A file is a header of big-endian numbers, what it holds (`0x00000803` or `0x00000801`) and how much
of it (images, rows, columns; or labels), and then a byte a pixel or a label.
Source: https://yann.lecun.com/exdb/mnist
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from raymodel.data.account import Account
from raymodel.data.readers.beside import labels_name, read_beside
from raymodel.data.readers.content import open_content
from raymodel.data.readers.fixed import FixedFile, open_fixed
from raymodel.data.readers.png import encode_png
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

_IMAGES, _LABELS = 0x00000803, 0x00000801
_IMAGES_HEADER, _LABELS_HEADER = struct.Struct(">IIII"), struct.Struct(">II")


def read_idx(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The images that begin in the slice, with their labels."""
    with open_content(root, piece) as content:
        file = open_fixed(content, piece, account)
        if file is not None:
            yield from _read_images(root, piece, file, content.head, account)


def _read_images(
    root: Location, piece: FileSlice, file: FixedFile, head: bytes, account: Account
) -> Iterator[RawRecord]:
    header = head[: _IMAGES_HEADER.size]
    if fault := _fault_of(header):
        if file.is_first:
            account.begin(piece.name)
            account.leave_out(fault, header)
        return
    _, num_images, height, width = _IMAGES_HEADER.unpack(header)
    labels = _read_labels(root, piece.name, num_images)
    image_bytes = height * width
    if not image_bytes or file.num_bytes != len(header) + num_images * image_bytes:
        # Where bytes are missing, or are too many, nobody can tell: all images behind are others.
        if file.is_first:
            account.begin(piece.name, records=max(1, num_images))
            what = "images of an IDX file whose size is not the one that its header gives"
            account.leave_out(what, header, records=max(1, num_images))
        return
    for index, data in file.records(len(header), image_bytes):
        account.begin(piece.name, index + 1)
        image = encode_png(np.frombuffer(data, np.uint8).reshape(height, width))
        fields = {"image": image, "label": labels[index], "index": index}
        yield RawRecord(fields, digest_of(image))


def _fault_of(header: bytes) -> str | None:
    if header.startswith(_LABELS.to_bytes(4, "big")):
        return "IDX file of labels where one of images is needed"
    whole = len(header) == _IMAGES_HEADER.size
    if not whole or _IMAGES_HEADER.unpack(header)[0] != _IMAGES:
        return "not an IDX file of images"
    return None


def _read_labels(root: Location, images: str, num_images: int) -> bytes:
    """A byte for each image.

    Raises:
        SourceError: they are not there, or do not fit the images.
    """
    name = labels_name(images)
    data = None if name == images else read_beside(root, name)
    if data is None:
        raise SourceError(
            f"{root / images} has no labels beside it; a file of images called "
            "`train-images-idx3-ubyte` has its labels in `train-labels-idx1-ubyte`, packed as it "
            "is. Put them there"
        )
    header, labels = data[: _LABELS_HEADER.size], data[_LABELS_HEADER.size :]
    if len(header) < _LABELS_HEADER.size or _LABELS_HEADER.unpack(header)[0] != _LABELS:
        raise SourceError(
            f"{root / name} begins with 0x{header[:4].hex()}; a file of labels begins with "
            f"0x{_LABELS:08x}. Fetch it again"
        )
    num_labels = _LABELS_HEADER.unpack(header)[1]
    if len(labels) != num_labels or num_labels != num_images:
        raise SourceError(
            f"{root / name} says that it holds {num_labels:,} labels and holds {len(labels):,}, "
            f"for {num_images:,} images; they must be as many. Fetch both files again"
        )
    return labels
