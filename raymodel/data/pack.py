"""Documents packed end to end into rows of equal length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from raymodel.modality.encode import Encoded


def token_type(vocab_size: int) -> pa.DataType:
    """The smallest of uint16 and int32 that holds every token id."""
    return pa.uint16() if vocab_size <= 2**16 else pa.int32()


def packed_schema(sequence_length: int, vocab_size: int) -> pa.Schema:
    """Columns of packed rows.

    `tokens`: T ids, of which the first `length` are real and the rest padding. `document_starts`:
    where documents begin in the row, ascending; a row that goes on with the document of the row
    before does not start with 0.
    """
    return pa.schema(
        [
            ("tokens", pa.list_(token_type(vocab_size), sequence_length)),
            ("document_starts", pa.list_(pa.int32())),
            ("length", pa.int32()),
        ]
    )


def pack_rows(
    documents: Encoded,
    *,
    sequence_length: int,
    end_of_text: int,
    padding: int,
    vocab_size: int,
) -> pa.Table:
    """Closes each document with `end_of_text` and cuts the whole into rows.

    Only the last row is padded; no token is lost.
    """
    schema = packed_schema(sequence_length, vocab_size)
    if not len(documents.counts):
        return schema.empty_table()
    lengths = documents.counts + 1
    ends = np.cumsum(lengths)
    num_rows = -(-int(ends[-1]) // sequence_length)
    element = schema.field("tokens").type.value_type.to_pandas_dtype()
    tokens = np.full(num_rows * sequence_length, padding, dtype=element)
    tokens[: ends[-1]] = end_of_text
    is_text = np.ones(int(ends[-1]), dtype=bool)
    is_text[ends - 1] = False
    tokens[: ends[-1]][is_text] = documents.ids
    row_lengths = np.full(num_rows, sequence_length, dtype=np.int32)
    row_lengths[-1] = ends[-1] - (num_rows - 1) * sequence_length
    columns: list[Any] = [
        pa.FixedSizeListArray.from_arrays(pa.array(tokens), sequence_length),
        _starts_by_row(ends - lengths, num_rows, sequence_length),
        pa.array(row_lengths),
    ]
    return pa.table(columns, schema=schema)


def _starts_by_row(starts: Any, num_rows: int, sequence_length: int) -> pa.ListArray:
    row_of, place = np.divmod(starts, sequence_length)
    offsets = np.searchsorted(row_of, np.arange(num_rows + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(place.astype(np.int32)))
