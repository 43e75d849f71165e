"""The digits of scikit-learn as the files that sets of images come in."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


class Images(NamedTuple):
    """Grey images of 32 × 32 pixels, so that all formats can hold them, and their classes."""

    pixels: NDArray[np.uint8]  # (images, 32, 32)
    labels: list[int]

    @property
    def planes(self) -> NDArray[np.uint8]:
        """(images, 3072): the same for red, green and blue."""
        flat = self.pixels.reshape(len(self.pixels), -1)
        return np.ascontiguousarray(np.tile(flat, 3))


def digits(count: int) -> Images:
    found = load_digits()
    small = (found.images[:count] * 15).astype(np.uint8)
    pixels = small.repeat(4, axis=1).repeat(4, axis=2)
    return Images(pixels, [int(label) for label in found.target[:count]])


def idx_images(images: Images) -> bytes:
    return struct.pack(">IIII", 0x803, *images.pixels.shape) + images.pixels.tobytes()


def idx_labels(images: Images) -> bytes:
    return struct.pack(">II", 0x801, len(images.labels)) + bytes(images.labels)


def write_idx(folder: Path, images: Images, packed: bool = False) -> Path:
    """Both files; returns the path of the images."""
    suffix, pack = (".gz", lambda data: gzip.compress(data, mtime=0)) if packed else ("", bytes)
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx_labels(images)))
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx_images(images)))
    return path


def binary_batch(images: Images, *coarse: int) -> bytes:
    """A batch of CIFAR-10; of CIFAR-100 with the coarse label of all images."""
    rows = zip(images.labels, images.planes, strict=True)
    return b"".join(bytes([*coarse, label]) + row.tobytes() for label, row in rows)


def pickled_batch(images: Images, **columns: Sequence[Any]) -> bytes:
    """A batch as Python 2 wrote it, with the lists that are given; by default of CIFAR-10."""
    columns = columns or {"labels": images.labels}
    return python2_pickle(
        {
            "batch_label": "training batch 1 of 5",
            **columns,
            "data": images.planes,
            "filenames": [f"digit_s_{i:06d}.png" for i in range(len(images.labels))],
        }
    )


# ---- pickles of Python 2 -------------------------------------------------------------------------


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 of Python 2, whose texts are bytes; for what batches hold."""
    writer = _Python2Pickle()
    return b"\x80\x02" + writer.write(value) + b"."


class _Python2Pickle:
    def __init__(self) -> None:
        self._memo = 0

    def write(self, value: Any) -> bytes:
        match value:
            case bool():
                return b"\x88" if value else b"\x89"
            case int():
                return _number(value)
            case str() | bytes():
                return self._text(value.encode() if isinstance(value, str) else value)
            case None:
                return b"N"
            case tuple():
                return b"(" + b"".join(map(self.write, value)) + b"t" + self._remember()
            case list():
                begin = b"]" + self._remember()
                return begin + b"(" + b"".join(map(self.write, value)) + b"e"
            case dict():
                begin = b"}" + self._remember()
                items = [self.write(each) for pair in value.items() for each in pair]
                return begin + b"(" + b"".join(items) + b"u"
            case np.ndarray():
                return self._array(value)
        raise TypeError(type(value))

    def _array(self, value: NDArray[np.uint8]) -> bytes:
        array = b"cnumpy.core.multiarray\n_reconstruct\n" + self._remember()
        array += b"cnumpy\nndarray\n" + self._remember()
        array += b"K\0\x85" + self._remember() + self._text(b"b") + b"\x87" + self._remember()
        array += b"R" + self._remember()
        dtype = b"cnumpy\ndtype\n" + self._remember() + self._text(b"u1") + b"K\0K\1\x87"
        dtype += self._remember() + b"R" + self._remember()
        dtype += b"(K\3" + self._text(b"|") + b"NNN" + _number(-1) * 2 + b"K\0t"
        dtype += self._remember() + b"b"
        rows, columns = value.shape
        shape = _number(rows) + _number(columns) + b"\x86" + self._remember()
        state = b"(K\1" + shape + dtype + b"\x89" + self._text(value.tobytes()) + b"t"
        return array + state + self._remember() + b"b"

    def _text(self, data: bytes) -> bytes:
        if len(data) < 256:
            return b"U" + bytes([len(data)]) + data + self._remember()
        return b"T" + struct.pack("<i", len(data)) + data + self._remember()

    def _remember(self) -> bytes:
        self._memo += 1
        if self._memo < 256:
            return b"q" + bytes([self._memo])
        return b"r" + struct.pack("<I", self._memo)


def _number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 2**16:
        return b"M" + struct.pack("<H", value)
    return b"J" + struct.pack("<i", value)
