"""From the bytes of source files to raw records, one reader for each format."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from raymodel.data.account import Account
from raymodel.data.clean import TOO_LARGE
from raymodel.data.readers.arrow import read_arrow
from raymodel.data.readers.cifar import is_binary_batch, read_cifar
from raymodel.data.readers.coco import read_coco
from raymodel.data.readers.content import packed_suffix
from raymodel.data.readers.delimited import read_csv
from raymodel.data.readers.idx import read_idx
from raymodel.data.readers.jsonl import read_jsonl
from raymodel.data.readers.librispeech import read_librispeech
from raymodel.data.readers.lines import is_wide
from raymodel.data.readers.masked import read_mask_folders
from raymodel.data.readers.media import read_class_folders
from raymodel.data.readers.parquet import read_parquet
from raymodel.data.readers.pixels import read_pixels
from raymodel.data.readers.squad import read_squad
from raymodel.data.readers.tagged import read_conll, read_word_tags
from raymodel.data.readers.text import read_python, read_text
from raymodel.data.readers.warc import read_warc
from raymodel.data.readers.xml import read_xml
from raymodel.data.record import FileSlice, RawRecord, num_bytes
from raymodel.data.sources import SourceFiles
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

_Reader = Callable[[Location, FileSlice, SourceSpec, Account], Iterator[RawRecord]]

_READERS: dict[str, _Reader] = {
    "text": read_text,
    "folder": read_text,
    "python_functions": read_python,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "class_folders": read_class_folders,
    "mask_folders": read_mask_folders,
    "librispeech": read_librispeech,
    "idx": read_idx,
    "cifar": read_cifar,
    "pixels": read_pixels,
    "conll": read_conll,
    "word_tags": read_word_tags,
    "squad": read_squad,
    "coco": read_coco,
    "warc": read_warc,
    "xml": read_xml,
}


_LEFT_OPEN = ("csv", "pixels", "conll")
"""Formats whose files are parted by what is found in their first lines."""


def slice_files(
    files: SourceFiles, spec: SourceSpec, partition_bytes: int
) -> list[list[FileSlice]]:
    """Cuts a source into partitions of about `partition_bytes`, in source order."""
    partitions: list[list[FileSlice]] = [[]]
    room = partition_bytes
    for file in files.files:
        is_whole = (files.root / file.name).is_in_archive or not _is_sliceable(spec, file.name)
        step = max(file.bytes, 1) if is_whole else partition_bytes
        for start in range(0, file.bytes, step):
            end = min(start + step, file.bytes)
            if partitions[-1] and end - start > room:
                partitions.append([])
                room = partition_bytes
            partitions[-1].append(FileSlice(file.name, start, end, file.bytes))
            room -= end - start
    return partitions


def _is_sliceable(spec: SourceSpec, name: str) -> bool:
    """Whether a file can be read from the middle, so that many tasks share a large one."""
    if spec.format == "jsonl":
        return not packed_suffix(name) and not is_wide(spec.encoding)
    if spec.format == "idx":
        return not packed_suffix(name)
    if spec.format == "cifar":
        return is_binary_batch(name)
    if spec.format == "warc":
        return packed_suffix(name) == ".gz"
    return spec.format == "parquet"


def read_slice(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Generator[RawRecord, None, None]:
    """The records of one slice. Each is entered in `account`, readable or not.

    Cut anywhere, the slices of a file give the same records and the same account: what a file is,
    each of them sees at its beginning, and where it cannot be cut the first one reads all of it.

    Raises:
        SourceError: the file is gone, has changed or may not be read, its columns cannot be told
            from one another, or what must lie beside it does not, or does not fit it.
    """
    for record in _READERS[spec.format](root, piece, spec, account):
        if spec.max_record_bytes and num_bytes(record.fields) > spec.max_record_bytes:
            account.leave_out(TOO_LARGE, record.fields)
        else:
            yield record


def peek(files: SourceFiles, spec: SourceSpec) -> list[str]:
    """What a look at the first file of a source tells that the job does not say of it: nothing for
    formats that leave nothing open, or are known only once much is read.

    Raises:
        SourceError: as of `read_slice`.
    """
    if spec.format not in _LEFT_OPEN:
        return []
    first, account = files.files[0], Account()
    piece = FileSlice(first.name, 0, first.bytes, first.bytes)
    with closing(read_slice(files.root, piece, spec, account)) as records:
        next(records, None)
    return [f"source {spec.path!r}: {first.name}, {way}" for _, way in account.found]
