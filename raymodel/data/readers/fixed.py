"""Files of records that all have the same size: a slice finds its own without reading the rest."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from raymodel.data.account import Account
from raymodel.data.readers.content import Content, Unreadable
from raymodel.data.record import FileSlice


@dataclass(frozen=True)
class FixedFile:
    """An open file, and the slice of it that is read."""

    stream: IO[bytes]
    num_bytes: int
    """Of the whole file, unpacked."""
    start: int
    end: int

    @property
    def is_first(self) -> bool:
        """Whether what concerns the whole file is to be accounted for with this slice."""
        return self.start == 0

    def records(self, header_bytes: int, record_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Index and bytes of each record that begins in the slice.

        The file must be a header and whole records: what its size says, the caller has looked at.
        """
        behind = max(0, self.start - header_bytes)
        first = -(-behind // record_bytes)
        begins = range(header_bytes + first * record_bytes, self.num_bytes, record_bytes)
        self.stream.seek(begins.start)
        for index, begin in enumerate(begins, start=first):
            if begin >= self.end:
                break
            yield index, self.stream.read(record_bytes)


def open_fixed(content: Content, piece: FileSlice, account: Account) -> FixedFile | None:
    """The slice; all of the file at its first slice where it is packed or lies in an archive, so
    that its size is known.

    None where there is nothing to read: it is left out, or another slice reads it.
    """
    if content.packer is None and not content.is_member:
        return FixedFile(content.stream, piece.file_bytes, piece.start, piece.end)
    if piece.start:
        return None
    try:
        data = content.read_document()
    except Unreadable as fault:
        account.begin(piece.name)
        account.leave_out(fault.reason, fault.sample)
        return None
    return FixedFile(io.BytesIO(data), len(data), 0, len(data))
