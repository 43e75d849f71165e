"""Files that are one document each, and Python files, which are a document of many functions."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Callable, Iterator

from raymodel.data.account import Account
from raymodel.data.functions import read_functions
from raymodel.data.readers.content import Unreadable, open_content
from raymodel.data.readers.lines import is_wide, not_decoded
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location


def read_text(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The file as the one record that it is."""
    found = read_document(root, piece, account, lambda data: spec.encoding)
    if found is None:
        return
    data, text = found
    fields = {"text": text, "path": piece.name}
    if spec.format == "folder":
        label = folder_label(piece, account)
        if label is None:
            return
        fields["label"] = label
    yield RawRecord(fields, digest_of(data))


def read_python(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The documented functions of the file; a file without any is a record that is left out."""
    found = read_document(root, piece, account, lambda data: _coding_line(data) or spec.encoding)
    if found is None:
        return
    data, text = found
    try:
        functions = read_functions(text)
    except (SyntaxError, ValueError):
        account.leave_out("not Python", text)
        return
    except (RecursionError, MemoryError):  # what the parser raises for thousands of brackets
        account.leave_out("Python nested too deep", text)
        return
    if not functions:
        account.leave_out("Python file without a documented function", text)
        return
    document = digest_of(data)
    for index, function in enumerate(functions):
        # The first one is the record that was met with the file.
        account.begin(piece.name, function.line, records=1 if index else 0)
        yield RawRecord({**function.fields, "path": piece.name}, document)


def folder_label(piece: FileSlice, account: Account) -> str | None:
    """The name of the file's folder; None, left out, when it lies in none of the source's."""
    folder, _, _ = piece.name.rpartition("/")
    if not folder:
        account.leave_out("file not in a folder", piece.name)
        return None
    return folder.rpartition("/")[2]


def read_document(
    root: Location, piece: FileSlice, account: Account, encoding_of: Callable[[bytes], str]
) -> tuple[bytes, str] | None:
    """The record that a file is: its bytes and its text; None, left out, when it cannot be read."""
    account.begin(piece.name)
    data = read_bytes(root, piece, account)
    text = None if data is None else _decode(data, encoding_of(data), account)
    return None if data is None or text is None else (data, text)


def read_bytes(root: Location, piece: FileSlice, account: Account) -> bytes | None:
    """The unpacked file; None, left out, when it is damaged or fills the memory."""
    with open_content(root, piece) as content:
        try:
            return content.read_document()
        except Unreadable as fault:
            account.leave_out(fault.reason, fault.sample)
            return None


def _decode(data: bytes, encoding: str, account: Account) -> str | None:
    """Text of a file; None, left out, for binary junk and for what is not in `encoding`."""
    try:
        if b"\0" not in data or is_wide(encoding):
            return data.decode(encoding).removeprefix("\ufeff")
        reason = not_decoded(encoding, data)
        account.leave_out("binary file" if reason == f"not {encoding}" else reason, data)
    except UnicodeError:
        account.leave_out(not_decoded(encoding, data), data)
    except LookupError:  # only a Python file names its encoding itself
        account.leave_out("Python file in an unknown encoding", data)
    return None


def _coding_line(data: bytes) -> str | None:
    """The encoding that a Python file declares in its first two lines (PEP 263), or by a mark."""
    try:
        coding, lines = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError:
        return None
    declares = coding != "utf-8" or any(b"coding" in line for line in lines)
    return coding if declares else None
