"""Rows of several steps as one Arrow block: how reading tasks hand them to training.

Ray Data's reading tasks import this module, which knows no Ray and no torch, so that a new task
process is ready in a moment.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from raymodel.data.feed import StepRows, read_steps
from raymodel.data.order import Order
from raymodel.data.shard import Dataset

STEP, POSITION, ROW = "__step__", "__position__", "__row__"


def read_blocks(
    steps: range,
    chunk: int,
    *,
    dataset: Dataset,
    order: Order,
    rank: int,
    world_size: int,
    on_bad_shard: str,
) -> Iterator[pa.Table]:
    """A worker's rows of these steps, `chunk` steps at a time. Runs in tasks of Ray Data."""
    for first in range(steps.start, steps.stop, chunk):
        some = range(first, min(first + chunk, steps.stop))
        yield to_block(list(read_steps(dataset, order, some, rank, world_size, on_bad_shard)))


def to_block(steps: list[StepRows]) -> pa.Table:
    """Rows of several steps as one Arrow block, each with its step, position and row id."""
    counts = [len(rows.row_ids) for rows in steps]
    # A table without rows may lack columns, where its whole block was skipped.
    tables = [rows.table for rows in steps if len(rows.row_ids)]
    table = pa.concat_tables(tables) if tables else pa.table({})
    numbers = {
        STEP: np.repeat(np.array([rows.step for rows in steps], dtype=np.int64), counts),
        POSITION: np.concatenate([rows.positions for rows in steps]),
        ROW: np.concatenate([rows.row_ids for rows in steps]),
    }
    for name, values in numbers.items():
        table = table.append_column(name, pa.array(values))
    return table


def take_step(block: pa.Table, step: int, count: int) -> StepRows:
    """The rows of one step out of a block that holds all of them.

    Args:
        count: rows that the step has; those that the block lacks were skipped as unreadable.
    """
    first, last = np.searchsorted(block[STEP].to_numpy(), [step, step + 1])
    rows = block.slice(int(first), int(last - first))
    return StepRows(
        step=step,
        positions=rows[POSITION].to_numpy(),
        row_ids=rows[ROW].to_numpy(),
        table=rows.drop_columns([STEP, POSITION, ROW]),
        skipped=count - rows.num_rows,
    )
