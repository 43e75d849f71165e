"""What the model to start from makes of the examples: columns that are computed once.

A task whose loss compares a model with its base, as that of preferences does, would need both in
memory while it trains. Here each example is read by the base before, and what it makes of it lies
beside the example from then on.

The items are runs of rows that the data alone decides, and so are the batches of each: however many
workers share them, each example is read in the same company, and on the same kind of machine with
the same result, bit for bit. In other company it would differ by how a product of matrices of
another shape is rounded: in fp32 some 1e-6 of it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from raymodel.data.columns import columns_of
from raymodel.data.parts import PartPlan
from raymodel.data.plan import READ_BY_BASE_ROWS, READ_BY_BASE_TOKENS
from raymodel.data.row_runs import RowRun, plan_runs, with_new_rows
from raymodel.data.rows import row_tokens
from raymodel.data.step import OfResults, item_file, read_rows, write_table
from raymodel.errors import ArtifactError
from raymodel.observe.slow_paths import as_content, slow_paths
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location
from raymodel.tasks.base import Task
from raymodel.tasks.spec import AnyTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class AskedBase:
    """The model to start from, and how it reads."""

    folder: Location
    """A Hugging Face folder."""
    precision: Literal["bf16", "fp16", "fp32"]
    """That of the training: before its first update the model that is trained is its base, and so
    should be what it makes of an example."""
    wants_gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class ReferenceStep(OfResults):
    """Rows → the same rows with what the base makes of each, one item a run of rows."""

    work: Location
    runs: tuple[RowRun, ...]
    task: AnyTask
    base: AskedBase
    name: str = "references"
    loads_model: bool = True

    @property
    def num_items(self) -> int:
        return len(self.runs)

    def run(self, item: int) -> dict[str, Any]:
        one = self.runs[item]
        model, task = _load(self.base, self.task)
        table = add_readings(model, task, read_rows(one.file, one.start, one.stop))
        write_table(self.rows_file(item), table)
        return {"memory_bytes": table.nbytes, "slow_paths": as_content(slow_paths())}

    def rows_file(self, item: int) -> Location:
        return item_file(self.work, "references-rows", item)


def plan_references(parts: Sequence[PartPlan]) -> tuple[RowRun, ...]:
    """The items of the step."""
    return plan_runs(parts, READ_BY_BASE_ROWS)


def with_references(
    parts: Sequence[PartPlan], step: ReferenceStep, summaries: Sequence[dict[str, Any]]
) -> Iterator[PartPlan]:
    """The same parts, of the files that the step has written."""
    return with_new_rows(parts, step, summaries, READ_BY_BASE_ROWS)


def add_readings(model: PreTrainedModel, task: Task, table: pa.Table) -> pa.Table:
    """Fills in the columns of `base_readings`.

    Args:
        model: the base, in evaluation mode.
        table: examples of the task.

    Raises:
        ArtifactError: what the base makes of an example is not finite.
    """
    columns = {column: np.empty(table.num_rows) for column in task.base_readings}
    for indices in plan_batches(row_tokens(table)):
        readings = task.readings(model, columns_of(table.take(pa.array(indices))))
        for column, name in task.base_readings.items():
            columns[column][indices] = [reading[name] for reading in readings]
    for column, values in columns.items():
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ArtifactError(
                f"the base gives {values[wrong[0]]} for {len(wrong)} of {len(values)} examples "
                f"({column}); its weights must be finite, and its numbers must not overflow: "
                "start from a base in fp32 or bf16, or set task.reference: none"
            )
        field = table.schema.field(column)
        place = table.schema.get_field_index(column)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table


def plan_batches(tokens: Any) -> Iterator[Any]:
    """Places of rows that go through the model together, from the shortest to the longest.

    Args:
        tokens: of each row. (n,)
    """
    order = np.argsort(tokens, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        # Padded, a batch is as wide as its last row.
        while stop < len(order) and (
            (stop + 1 - start) * int(tokens[order[stop]]) <= READ_BY_BASE_TOKENS
        ):
            stop += 1
        yield order[start:stop]
        start = stop


@functools.lru_cache(maxsize=1)  # once in a process, which may read many runs
def _load(base: AskedBase, spec: AnyTask) -> tuple[PreTrainedModel, Task]:
    import torch

    from raymodel.model.kernels import find_device, note_attention
    from raymodel.model.load import load_for_use

    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    device = find_device(base.wants_gpu)
    with local_folder(base.folder) as folder:
        model, task = load_for_use(folder, spec.name, spec=spec, dtype=dtypes[base.precision])
    note_attention(model)
    model.to(torch.device(device))  # type: ignore[arg-type]  # a wrapped method, mistyped upstream
    return model, task
