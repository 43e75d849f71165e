"""Arrow files, streams and files with a footer alike; `save_to_disk` of `datasets` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raymodel.data.account import Account
from raymodel.data.readers.content import open_file, read_ends
from raymodel.data.readers.table import check_names, class_names, read_batch
from raymodel.data.record import FileSlice, RawRecord
from raymodel.data.spec import SourceSpec
from raymodel.errors import StorageUnavailableError
from raymodel.storage.uri import Location

_MAGIC = b"ARROW1"
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream: the length of a message that does not come


def read_arrow(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The rows of all batches. From the first that is damaged the rest counts as one record: how
    many rows it had, nothing else says."""
    import pyarrow as pa

    with open_file(root, piece) as stream:
        ends = read_ends(stream, 6, 8, piece, account)
        if ends is None:
            return
        begin, end = ends
        has_footer = begin == _MAGIC
        stream.seek(0)
        try:
            opened = pa.ipc.open_file(stream) if has_footer else pa.ipc.open_stream(stream)
            names, classes = opened.schema.names, class_names(opened.schema)
        except StorageUnavailableError:  # the storage, not what is in the file
            raise
        except (pa.ArrowException, OSError, ValueError):
            account.begin(piece.name)
            damaged = has_footer or begin[:4] == _END[:4]
            account.leave_out("damaged Arrow file" if damaged else "not an Arrow file")
            return
        check_names(names, piece, spec)
        row = 1
        for batch in _batches(opened, has_footer, whole=has_footer or end == _END):
            if batch is None:
                account.begin(piece.name, row)
                account.leave_out("rest of an Arrow file that is damaged or cut short")
                return
            yield from read_batch(batch, row, classes, piece, account)
            row += batch.num_rows


def _batches(opened: Any, has_footer: bool, whole: bool) -> Iterator[Any | None]:
    """The batches; None for a rest that cannot be read.

    Args:
        whole: whether the file has its end: a stream that is cut between two batches looks as if
            the first had been all.
    """
    import pyarrow as pa

    number = 0
    while not has_footer or number < opened.num_record_batches:
        try:
            batch = opened.get_batch(number) if has_footer else opened.read_next_batch()
            batch.validate()
        except StopIteration:
            break
        except StorageUnavailableError:
            raise
        except (pa.ArrowException, OSError, ValueError):
            yield None
            return
        yield batch
        number += 1
    if not whole:
        yield None
