"""Parquet files, a row group at a time; what is damaged costs its own row group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raymodel.data.account import Account
from raymodel.data.readers.content import open_file, read_ends
from raymodel.data.readers.table import BATCH_ROWS, ClassNames, check_names, class_names, read_batch
from raymodel.data.record import FileSlice, RawRecord
from raymodel.data.spec import SourceSpec
from raymodel.errors import StorageUnavailableError
from raymodel.storage.uri import Location

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"


def read_parquet(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The rows of the row groups that begin in the slice."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(root, piece) as stream:
        ends = read_ends(stream, 4, 4, piece, account)
        if ends is None:
            return
        try:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            names, classes = file.schema_arrow.names, class_names(file.schema_arrow)
        except StorageUnavailableError:
            raise
        except (pa.ArrowException, OSError, ValueError):
            if piece.start == 0:
                account.begin(piece.name)
                account.leave_out(_what_it_is(*ends))
            return
        check_names(names, piece, spec)
        first_row = 0
        for index in range(file.num_row_groups):
            group = file.metadata.row_group(index)
            if piece.start <= _begin_of(group, piece.file_bytes) < piece.end:
                yield from _read_group(file, index, first_row, classes, piece, account)
            first_row += max(0, group.num_rows)


def _what_it_is(begin: bytes, end: bytes) -> str:
    if _ENCRYPTED in (begin, end):
        return "encrypted Parquet file"
    if begin != _MAGIC:
        return "not a Parquet file"
    return "Parquet file with a damaged footer" if end == _MAGIC else "Parquet file cut short"


def _begin_of(group: Any, file_bytes: int) -> int:
    """Where a row group begins, always inside of the file: each belongs to one slice."""
    if not group.num_columns:
        return 0
    chunk = group.column(0)
    offsets: list[int] = [
        offset
        for offset in (chunk.dictionary_page_offset, chunk.data_page_offset)
        if offset is not None
    ]
    return int(max(0, min([*offsets, file_bytes - 1])))


def _read_group(
    file: Any, index: int, first_row: int, classes: ClassNames, piece: FileSlice, account: Account
) -> Iterator[RawRecord]:
    import pyarrow as pa

    num_rows, done = max(0, file.metadata.row_group(index).num_rows), 0
    if not file.metadata.num_columns:
        account.begin(piece.name, first_row + 1, records=num_rows)
        account.leave_out("row without columns", records=num_rows)
        return
    batches = file.iter_batches(BATCH_ROWS, row_groups=[index])
    while True:
        try:
            batch = next(batches, None)
        except StorageUnavailableError:  # the storage, not what is in the file
            raise
        except (pa.ArrowException, OSError, ValueError):
            batch = None
        if batch is None:
            break
        yield from read_batch(batch, first_row + done + 1, classes, piece, account)
        done += batch.num_rows
    if done < num_rows:
        account.begin(piece.name, first_row + done + 1, records=num_rows - done)
        account.leave_out("rows of a damaged part of a Parquet file", records=num_rows - done)
