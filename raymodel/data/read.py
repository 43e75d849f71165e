"""From the bytes of source files to raw records, one reader for each format."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raymodel.data.account import Account
from raymodel.data.functions import read_functions
from raymodel.data.sources import SourceFiles
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location


@dataclass(frozen=True)
class FileSlice:
    """Bytes `start` … `end` of a file; a record belongs to the slice where it begins."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class RawRecord:
    """One record as its source gives it."""

    fields: dict[str, Any]
    document: bytes
    """Digest of the document that the record is part of: of the whole file where a file is one
    document (`text`, `folder`, `python_functions`), else of the record. It decides the holdout, so
    that all functions of a module fall on the same side, in every stage that reads the module."""


SLICEABLE = frozenset({"jsonl", "parquet"})
"""Formats whose files can be read from the middle, so that many tasks share a large file."""


def slice_files(
    files: SourceFiles, spec: SourceSpec, partition_bytes: int
) -> list[list[FileSlice]]:
    """Cuts a source into partitions of about `partition_bytes`, in source order."""
    partitions: list[list[FileSlice]] = [[]]
    room = partition_bytes
    for file in files.files:
        step = partition_bytes if spec.format in SLICEABLE else max(file.bytes, 1)
        for start in range(0, file.bytes, step):
            end = min(start + step, file.bytes)
            if partitions[-1] and end - start > room:
                partitions.append([])
                room = partition_bytes
            partitions[-1].append(FileSlice(file.name, start, end))
            room -= end - start
    return partitions


def read_slice(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The records of one slice. Each is entered in `account`, readable or not."""
    yield from _READERS[spec.format](root, piece, spec, account)


def digest_of(data: bytes) -> bytes:
    """16 bytes that stand for a document or a text."""
    return hashlib.blake2b(data, digest_size=16).digest()


def decode_file(data: bytes, name: str, encoding: str, account: Account) -> str | None:
    """Text of a file; None, left out whole, for binary junk and for what is not in `encoding`."""
    reason = f"not {encoding}"
    if b"\0" in data and not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
        reason = "binary file"
    else:
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            pass
    account.begin(name)
    account.leave_out(reason, data)
    return None


def _read_text(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    data = (root / piece.name).read_bytes()
    text = decode_file(data, piece.name, spec.encoding, account)
    if text is None:
        return
    account.begin(piece.name)
    fields = {"text": text, "path": piece.name}
    if spec.format == "folder":
        folder, _, _ = piece.name.rpartition("/")
        if not folder:
            account.leave_out("file not in a folder", piece.name)
            return
        fields["label"] = folder.rpartition("/")[2]
    yield RawRecord(fields, digest_of(data))


def _read_python(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    data = (root / piece.name).read_bytes()
    text = decode_file(data, piece.name, spec.encoding, account)
    if text is None:
        return
    try:
        functions = read_functions(text)
    except (SyntaxError, ValueError, RecursionError):
        account.begin(piece.name)
        account.leave_out("not Python", text)
        return
    document = digest_of(data)
    for function in functions:
        account.begin(piece.name)
        yield RawRecord({**function, "path": piece.name}, document)


def _read_jsonl(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    for line in _lines(root / piece.name, piece):
        if not line.strip():
            continue
        account.begin(piece.name)
        try:
            fields = json.loads(line.decode(spec.encoding))
        except UnicodeDecodeError:
            account.leave_out(f"line not {spec.encoding}", line)
            continue
        except ValueError:
            account.leave_out("line not JSON", line)
            continue
        if isinstance(fields, dict):
            yield RawRecord(fields, digest_of(line.strip()))
        else:
            account.leave_out("line not a JSON object", line)


def _lines(location: Location, piece: FileSlice) -> Iterator[bytes]:
    """Lines that begin in the slice; the last one is read to its end beyond it."""
    with location.open_input() as raw:
        # Starting one byte early tells whether a line begins exactly at the slice's start.
        raw.seek(max(piece.start - 1, 0))
        with io.BufferedReader(raw, 2**20) as stream:
            position = max(piece.start - 1, 0)
            if piece.start:
                position += len(stream.readline())
            while position < piece.end and (line := stream.readline()):
                position += len(line)
                yield line


def _read_csv(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    data = (root / piece.name).read_bytes()
    text = decode_file(data, piece.name, spec.encoding, account)
    if text is None:
        return
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long document
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for fields in reader:
        account.begin(piece.name, reader.line_num)
        if None in fields or None in fields.values():
            account.leave_out("row with another number of columns than the header", fields)
            continue
        yield _whole_record(dict(fields))


def _read_parquet(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (root / piece.name).open_input() as stream:
        try:
            file = pq.ParquetFile(stream)
        except pa.ArrowInvalid:
            account.begin(piece.name)
            account.leave_out("not a Parquet file")
            return
        for index in range(file.num_row_groups):
            chunk = file.metadata.row_group(index).column(0)
            first = min(
                offset
                for offset in (chunk.dictionary_page_offset, chunk.data_page_offset)
                if offset is not None
            )
            if piece.start <= first < piece.end:
                for fields in file.read_row_group(index).to_pylist():
                    account.begin(piece.name)
                    yield _whole_record(fields)


def _whole_record(fields: dict[str, Any]) -> RawRecord:
    canonical = json.dumps(fields, sort_keys=True, default=str).encode()
    return RawRecord(fields, digest_of(canonical))


_Reader = Callable[[Location, FileSlice, SourceSpec, Account], Iterator[RawRecord]]

_READERS: dict[str, _Reader] = {
    "text": _read_text,
    "folder": _read_text,
    "python_functions": _read_python,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
