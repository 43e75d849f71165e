"""CSV and its relatives: rows of a table under the names of the first row.

A row that is damaged must cost no other row: the lines of each row are kept until it is parsed, so
that reading goes on behind the first of them.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from raymodel.data.account import Account
from raymodel.data.readers.content import packed_suffix
from raymodel.data.readers.lines import NumberedLine, open_lines
from raymodel.data.record import FileSlice, RawRecord, whole_record
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
"""What parts the fields of a row, when the job does not say it."""
MAX_ROW_CHARS = 2**26
"""Of one row; where more do not end it, its quote was never closed."""
_MAX_LINES_TO_RESUME = 100  # of the first whole row behind a damaged one
_UNCLOSED = "row with an unclosed or a stray quote"


def read_csv(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The rows of the file. A field without a name belongs to no record."""
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than a long document
    with open_lines(root, piece, spec, account, "row") as (_, numbered):
        lines = _Lines(numbered)
        header = _read_header(lines, piece, spec, account)
        if header is not None:
            yield from _read_rows(lines, header, piece, account)


class _Lines:
    """Lines for `csv.reader`, which can be given back."""

    def __init__(self, lines: Iterator[NumberedLine]) -> None:
        self.taken: list[NumberedLine] = []
        """Lines of the row that is parsed."""
        self.fault: str | None = None
        """Why the row that is parsed is left out."""
        self.max_lines: int | None = None
        self._lines, self._returned, self._chars = lines, deque[NumberedLine](), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.taken:
            self._check_size()
        line = self._returned.popleft() if self._returned else next(self._lines)
        text, _, fault = line
        self.taken.append(line)
        self._chars += len(text)
        self.fault = self.fault or fault
        return text

    def begin_row(self) -> None:
        """Forgets the lines of the row before."""
        self.taken.clear()
        self._chars, self.fault = 0, None

    def give_back(self, first: int) -> None:
        """The lines of the row from its index `first` on are taken once more."""
        self._returned.extendleft(reversed(self.taken[first:]))
        del self.taken[first:]
        self.fault = next((line[2] for line in self.taken if line[2]), None)

    def _check_size(self) -> None:
        if self._chars > MAX_ROW_CHARS or len(self.taken) == self.max_lines:
            raise csv.Error("a row without an end")


class _Header(NamedTuple):
    names: list[str]
    delimiter: str


def _read_header(
    lines: _Lines, piece: FileSlice, spec: SourceSpec, account: Account
) -> _Header | None:
    """Names and delimiter; None, left out, where there is nothing like a table."""
    delimiters = [spec.delimiter] if spec.delimiter else list(DELIMITERS)
    found = {delimiter: _first_row(lines, delimiter) for delimiter in delimiters}
    if not lines.taken:
        return None
    parted = {delimiter: row for delimiter, row in found.items() if len(row) > 1}
    usual = usual_delimiter(piece.name)
    if len(parted) > 1 and usual == "\t" and "\t" in parted:
        parted = {"\t": parted["\t"]}
    if len(parted) > 1:
        raise SourceError(
            f"source {spec.path!r}: the first row of {piece.name}, {_shown(lines)}, can be parted "
            f"by {' and by '.join(DELIMITERS[each] for each in parted)}; one of them is the "
            "delimiter. Set `delimiter`"
        )
    delimiter = next(iter(parted), delimiters[0])
    names = _first_row(lines, delimiter)  # once more: its lines are the ones that are taken
    fault = lines.fault
    if fault or not names:
        account.begin(piece.name, lines.taken[0][1])
        what = "binary file" if fault and "NUL" in fault else fault or _UNCLOSED
        account.leave_out(f"table without a header: {what}", lines.taken[0][0])
        return None
    twice = [name for name, times in Counter(names).items() if times > 1 and name]
    if twice:
        raise SourceError(
            f"source {spec.path!r}: the first row of {piece.name}, {_shown(lines)}, names "
            f"{twice[0]!r} more than once; a field has one value. Rename one of the columns"
        )
    if parted:
        note_delimiter(delimiter, piece, spec, account)
    return _Header(names, delimiter)


def usual_delimiter(name: str) -> str:
    """What parts the fields of a file by its name."""
    called = name.lower()
    return "\t" if called.removesuffix(packed_suffix(called)).endswith(".tsv") else ","


def note_delimiter(delimiter: str, piece: FileSlice, spec: SourceSpec, account: Account) -> None:
    """Enters what was found, unless the job or the file's name says it."""
    if spec.delimiter is None and delimiter != usual_delimiter(piece.name):
        account.found["file", f"parted by {DELIMITERS[delimiter]}s"] += 1


def _first_row(lines: _Lines, delimiter: str) -> list[str]:
    """The first row that is not blank; empty when there is none, or its quotes are not closed."""
    if lines.taken:
        lines.give_back(0)
    try:
        for row in _reader(lines, delimiter):
            if row:
                return row
            lines.begin_row()
    except csv.Error:
        pass
    return []


def _reader(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    # strict: what follows a closing quote would otherwise change the field in silence.
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _shown(lines: _Lines) -> str:
    text = "".join(text for text, _, _ in lines.taken).strip()
    return repr(text if len(text) <= 100 else text[:99] + "…")


def _read_rows(
    lines: _Lines, header: _Header, piece: FileSlice, account: Account
) -> Iterator[RawRecord]:
    names, num_columns = header.names, len(header.names)
    has_unnamed = "" in names
    reader, begin = _reader(lines, header.delimiter), account.begin
    while True:
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            text, number, _ = lines.taken[0]
            lines.give_back(1)
            begin(piece.name, number)
            account.leave_out(_UNCLOSED, text)
            _resume(lines, reader, header)
            continue
        if not row and not lines.fault:
            continue
        begin(piece.name, lines.taken[0][1])
        if lines.fault:
            account.leave_out(lines.fault, row)
        elif len(row) != num_columns:
            account.leave_out("row with another number of columns than the header", row)
        else:
            fields = dict(zip(names, row, strict=True))
            if has_unnamed:
                del fields[""]
            yield whole_record(fields)


def _resume(lines: _Lines, reader: Iterator[list[str]], header: _Header) -> None:
    """Goes to the first line behind a damaged one that begins a whole row.

    What lies between may be the rest of a document with a stray quote in it: it is no row.
    """
    delimiter = re.escape(header.delimiter)
    quoted = re.compile(rf'(?:^|(?<={delimiter}))"(?:[^"]|"")*"(?={delimiter}|\r|\n|$)')
    lines.max_lines = _MAX_LINES_TO_RESUME
    while True:
        lines.begin_row()
        try:
            row = next(reader)
            text = "".join(text for text, _, _ in lines.taken)
            is_whole = len(row) == len(header.names) and '"' not in quoted.sub("", text)
        except StopIteration:
            break
        except csv.Error:
            is_whole = False
        lines.give_back(0 if is_whole else 1)
        if is_whole:
            break
    lines.max_lines = None
