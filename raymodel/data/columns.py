"""From Arrow to what a task's `collate` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def columns_of(table: pa.Table) -> dict[str, Any]:
    """Columns by name: a fixed-size list becomes an array (rows, size), a list a list of arrays."""
    return {name: _column(table.column(name)) for name in table.column_names}


def _column(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_fixed_size_list(array.type):
        values = array.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(array), array.type.list_size)  # also when there is no row
    if pa.types.is_list(array.type):
        values = array.flatten().to_numpy(zero_copy_only=False)
        offsets = array.offsets.to_numpy()
        return np.split(values, offsets[1:-1] - offsets[0]) if len(array) else []
    return array.to_numpy(zero_copy_only=False)
