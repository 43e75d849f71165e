"""CIFAR-10 and CIFAR-100: colour images of 32 × 32 pixels in batches, binary or pickled.

A binary batch is a byte for each label and then 3,072 of the image, all red, all green, all blue
ones. A pickled batch is a dictionary with an array of such images, a list for each label, and the
names of the images' files. The names of the classes lie in files beside them.
Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raymodel.data.account import Account
from raymodel.data.readers.beside import name_beside, read_beside
from raymodel.data.readers.content import Content, Unreadable, open_content, packed_suffix
from raymodel.data.readers.fixed import FixedFile, open_fixed
from raymodel.data.readers.pickled import PickledArray, read_pickle
from raymodel.data.readers.png import encode_png
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

_IMAGE_BYTES = 3 * 32 * 32
_MAX_NAME_CHARS = 1_000  # of a class or an image
_NO_CLASS = "image with a label beyond the classes"


class _Label(NamedTuple):
    """One of the labels of an image, and where its names are."""

    field: str
    num_classes: int
    key: str
    """In a pickled batch."""
    text_file: str
    """A name a line."""
    pickle_file: str
    pickle_key: str


_CIFAR_10 = (_Label("label", 10, "labels", "batches.meta.txt", "batches.meta", "label_names"),)
_COARSE, _FINE = "coarse_label_names", "fine_label_names"
_CIFAR_100 = (
    _Label("coarse_label", 20, "coarse_labels", f"{_COARSE}.txt", "meta", _COARSE),
    _Label("label", 100, "fine_labels", f"{_FINE}.txt", "meta", _FINE),
)
_Classes = Sequence[int | str]
"""What stands for each class: its name, or its number."""


def is_binary_batch(name: str) -> bool:
    """Whether a file is a binary batch by its name, so that it is no pickle and can be sliced."""
    return name.lower().endswith(".bin")


def read_cifar(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The images that begin in the slice; all of the file where it is a pickle."""
    with open_content(root, piece) as content:
        unpacked = piece.name.lower().removesuffix(packed_suffix(piece.name))
        if content.head.startswith(b"\x80") and not is_binary_batch(unpacked):
            yield from _read_pickled(root, piece, content, account)
            return
        file = open_fixed(content, piece, account)
        if file is not None:
            yield from _read_binary(root, piece, file, account)


# ---- binary --------------------------------------------------------------------------------------


def _read_binary(
    root: Location, piece: FileSlice, file: FixedFile, account: Account
) -> Iterator[RawRecord]:
    labels = _labels_of(root, piece, file.num_bytes)
    if labels is None:
        if file.is_first:
            records = max(1, file.num_bytes // (1 + _IMAGE_BYTES))
            account.begin(piece.name, records=records)
            what = "images of a CIFAR file whose size is no number of images"
            account.leave_out(what, records=records)
        return
    classes = [_classes_in_text(root, piece, label) for label in labels]
    for index, data in file.records(0, len(labels) + _IMAGE_BYTES):
        account.begin(piece.name, index + 1)
        pixels = np.frombuffer(data, np.uint8, offset=len(labels))
        yield from _record(labels, classes, data, pixels, {"index": index}, account)


def _labels_of(root: Location, piece: FileSlice, num_bytes: int) -> tuple[_Label, ...] | None:
    """Which of the two sets a binary batch is of, by its size; None for neither."""
    fitting = [
        labels
        for labels in (_CIFAR_10, _CIFAR_100)
        if num_bytes and num_bytes % (len(labels) + _IMAGE_BYTES) == 0
    ]
    if len(fitting) == 2:  # 3,074 images of CIFAR-10 are as large as 3,073 of CIFAR-100
        names = root / name_beside(piece.name, _CIFAR_100[1].text_file)
        return _CIFAR_100 if names.exists() else _CIFAR_10
    return fitting[0] if fitting else None


def _classes_in_text(root: Location, piece: FileSlice, label: _Label) -> _Classes:
    data = read_beside(root, name_beside(piece.name, label.text_file))
    if data is None:
        return range(label.num_classes)
    return [line.strip() for line in data.decode("utf-8", "replace").split("\n") if line.strip()]


# ---- pickled -------------------------------------------------------------------------------------


def _read_pickled(
    root: Location, piece: FileSlice, content: Content, account: Account
) -> Iterator[RawRecord]:
    account.begin(piece.name)
    try:
        batch = _texts_as_keys(read_pickle(content.read_document()))
        labels = _CIFAR_100 if _CIFAR_100[1].key in batch else _CIFAR_10
        pixels_NP = _pixels_of(batch)
        columns = [_numbers(batch, label.key) for label in labels]
        filenames = _names(batch, "filenames") if "filenames" in batch else []
        if {*map(len, columns), len(filenames) or len(pixels_NP)} != {len(pixels_NP)}:
            raise Unreadable("CIFAR batch with more labels or names than images, or fewer")
    except Unreadable as fault:
        account.leave_out(fault.reason, fault.sample)
        return
    classes = [_classes_in_pickle(root, piece, label) for label in labels]
    for index, pixels in enumerate(pixels_NP):
        # The first one is the record that was met with the file.
        account.begin(piece.name, index + 1, records=1 if index else 0)
        own = [column[index] for column in columns]
        more = {"filename": filenames[index]} if filenames else {}
        yield from _record(labels, classes, own, pixels, {"index": index, **more}, account)


def _texts_as_keys(value: Any) -> dict[str, Any]:
    """A dictionary of a pickle; Python 2 has written its keys as bytes."""
    if not isinstance(value, dict):
        raise Unreadable("pickle that is no CIFAR batch")
    return {_text(key): each for key, each in value.items()}


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _pixels_of(batch: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(images, 3,072)."""
    data = batch.get("data")
    if not isinstance(data, PickledArray):
        raise Unreadable("pickle that is no CIFAR batch", ", ".join(batch))
    pixels_NP = data.pixels()
    if not len(pixels_NP) or pixels_NP.shape[1] != _IMAGE_BYTES:
        raise Unreadable("CIFAR batch with images of another size", str(pixels_NP.shape))
    return pixels_NP


def _numbers(batch: Mapping[str, Any], key: str) -> list[int]:
    values = batch.get(key)
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise Unreadable(f"pickle without a list of numbers in {key!r}")
    return values


def _names(batch: Mapping[str, Any], key: str) -> list[str]:
    values = batch.get(key)
    if not isinstance(values, list) or not all(
        # A pickle may hold a text once and name it a thousand times.
        isinstance(value, str | bytes) and len(value) <= _MAX_NAME_CHARS
        for value in values
    ):
        raise Unreadable(f"pickle without a list of names in {key!r}")
    return [_text(value) for value in values]


def _classes_in_pickle(root: Location, piece: FileSlice, label: _Label) -> _Classes:
    """
    Raises:
        SourceError: the file of names is there, and is not one.
    """
    name = name_beside(piece.name, label.pickle_file)
    data = read_beside(root, name)
    if data is None:
        return range(label.num_classes)
    try:
        return _names(_texts_as_keys(read_pickle(data)), label.pickle_key)
    except Unreadable as fault:
        raise SourceError(
            f"{root / name} is no file of names of classes ({fault.reason}); the labels of the "
            "batches beside it are named by it. Fetch it again, or remove it for numbers as labels"
        ) from fault


# ---- both ----------------------------------------------------------------------------------------


def _record(
    labels: Sequence[_Label],
    classes: Sequence[_Classes],
    numbers: Sequence[int],
    pixels: NDArray[np.uint8],
    more: Mapping[str, Any],
    account: Account,
) -> Iterator[RawRecord]:
    """The image that was begun; none, left out, when it has a label that there is not.

    Args:
        numbers: at least one for each of the labels.
        pixels: (3,072,), colour by colour.
    """
    numbers = numbers[: len(labels)]
    if not all(0 <= n < len(each) for n, each in zip(numbers, classes, strict=True)):
        account.leave_out(_NO_CLASS, str(list(numbers)))
        return
    image = encode_png(np.ascontiguousarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)))
    named = {
        label.field: each[number]
        for label, number, each in zip(labels, numbers, classes, strict=True)
    }
    yield RawRecord({"image": image, **named, **more}, digest_of(image))
