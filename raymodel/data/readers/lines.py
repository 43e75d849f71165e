"""Lines of bytes in any encoding whose line ends can be found, and what a file's head tells."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from raymodel.data.account import Account
from raymodel.data.readers.content import Content, open_content
from raymodel.data.record import FileSlice
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

MAX_LINE_BYTES = 2**27
"""Of one line; a longer one is no record but a file without line ends."""
_MARKS = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be", "utf-8")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

NumberedLine = tuple[str, int, str | None]
"""A line of text with its end, its number, the first being 1, and why the record that it is part of
is left out. A plain tuple, because one is made for every line."""


@dataclass(frozen=True)
class Encoding:
    """How the text of one file is written."""

    name: str
    """As the job says, for messages."""
    codec: str
    """The one of a line, without a byte-order mark."""
    newline: bytes
    mark_bytes: int
    """Of the byte-order mark at the file's start."""

    @property
    def unit_bytes(self) -> int:
        """Of the smallest piece of text: 2 in UTF-16."""
        return len(self.newline)


def encoding_of(name: str, head: bytes) -> Encoding:
    """The encoding that a job names, for the file that begins with `head`."""
    codec = codecs.lookup(name).name
    if codec in ("utf-16", "utf-32"):
        # Without a mark, Python takes the order of this machine; all that Ray runs on are little.
        codec = next((m for m in _MARKS if m[:6] == codec and _has_mark(head, m)), codec + "-le")
    elif codec == "utf-8-sig":
        codec = "utf-8"
    mark = len("\ufeff".encode(codec)) if _has_mark(head, codec) else 0
    return Encoding(name, codec, "\n".encode(codec), mark)


def is_wide(name: str) -> bool:
    """Whether a line end is more than one byte, so that a file cannot be entered in the middle."""
    return encoding_of(name, b"").unit_bytes > 1


def not_decoded(encoding: str, head: bytes) -> str:
    """Why text is left out that does not decode, and what its file seems to be."""
    mark = next((mark for mark in _MARKS if _has_mark(head, mark)), None)
    written = mark.removesuffix("-le").removesuffix("-be") if mark else ""
    if not mark or codecs.lookup(encoding).name in (mark, written, f"{written}-sig"):
        return f"not {encoding}"
    return f"not {encoding}: its file begins with the mark of {written}"


def _has_mark(head: bytes, codec: str) -> bool:
    try:
        return head.startswith("\ufeff".encode(codec))
    except UnicodeEncodeError:  # an encoding without this character has no mark
        return False


class LineReader:
    """Lines of a stream, with their ends, and where the last one begins."""

    def __init__(self, stream: IO[bytes], encoding: Encoding, byte: int = 0) -> None:
        """`byte` is where the stream stands in its file."""
        self.begins_at = byte
        self.ends_at = byte
        self.was_cut = False
        """Whether the last line is only the beginning of one that is too long."""
        self._stream, self._encoding = stream, encoding

    def __iter__(self) -> Iterator[bytes]:
        wide = self._encoding.unit_bytes > 1
        readline, position = self._stream.readline, self.ends_at
        while line := self._wide_line() if wide else readline(MAX_LINE_BYTES):
            self.begins_at = position
            position += len(line)
            if len(line) >= MAX_LINE_BYTES:
                position += self._skip_rest(line)
            else:
                self.was_cut = False
            self.ends_at = position
            yield line

    def _skip_rest(self, line: bytes) -> int:
        """Goes to the next line; returns the bytes between."""
        newline, skipped = self._encoding.newline, 0
        self.was_cut = not line.endswith(newline)
        while not line.endswith(newline):
            line = self._wide_line() if len(newline) > 1 else self._stream.readline(2**20)
            if not line:
                break
            skipped += len(line)
        return skipped

    def _wide_line(self) -> bytes:
        """A line of units of two or four bytes, one of which holds the newline's byte."""
        line, newline = bytearray(), self._encoding.newline
        while len(line) < MAX_LINE_BYTES:
            part = self._stream.readline(2**20)
            line += part
            line += self._stream.read(-len(line) % len(newline))
            if not part or line.endswith(newline):
                break
        return bytes(line)


@contextmanager
def open_lines(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account, record: str
) -> Iterator[tuple[Content, Iterator[NumberedLine]]]:
    """A file of text and its lines, with any line end.

    Of a packed file that is damaged, the line in which it ends is not among them; the damage is
    accounted for behind them, at the last one that was taken.

    Args:
        record: what a record of the file is called where one is left out: "row", "sentence".

    Raises:
        SourceError: the file is gone, may not be read, or is not the one that was listed.
    """
    number = 0

    def counted(lines: Iterator[NumberedLine]) -> Iterator[NumberedLine]:
        nonlocal number
        for line in lines:
            number = line[1]
            yield line

    with open_content(root, piece) as content:
        yield content, counted(_numbered(content, spec.encoding, record))
        if content.damage:
            account.begin(piece.name, number)
            account.leave_out(content.damage)


def _numbered(content: Content, encoding_name: str, record: str) -> Iterator[NumberedLine]:
    encoding = encoding_of(encoding_name, content.head)
    content.stream.read(encoding.mark_bytes)
    reader, number = LineReader(content.stream, encoding), 0
    for data in reader:
        if content.damage and not data.endswith(encoding.newline):
            return
        fault = None
        try:
            text = data.decode(encoding.codec)
        except UnicodeError:
            text = data.decode(encoding.codec, "replace")
            fault = f"{record} {not_decoded(encoding.name, content.head)}"
        if reader.was_cut:
            fault = f"{record} with a line longer than a record may be"
        if "\0" in text:
            fault = f"{record} with a NUL byte"
        # Old systems end a line by \r alone.
        if "\r" not in text or text.find("\r") == len(text) - 2:
            number += 1
            yield text, number, fault
        else:
            for part in _LINE.findall(text):
                number += 1
                yield part, number, fault
