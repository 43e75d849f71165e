"""What Parquet and Arrow files have in common: batches of rows with named columns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymodel.data.account import Account
from raymodel.data.record import FileSlice, RawRecord, whole_record
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

BATCH_ROWS = 1024
"""So many rows are looked at together."""
ClassNames = Mapping[str, Sequence[str]]
"""Column → the names that its numbers stand for."""


def check_names(names: Sequence[str], piece: FileSlice, spec: SourceSpec) -> None:
    """Raises SourceError when two columns have one name."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise SourceError(
            f"source {spec.path!r}: {piece.name} has more than one column {twice[0]!r}; a field "
            "has one value. Rename one of them"
        )


def class_names(schema: Any) -> ClassNames:
    """Of the columns that Hugging Face's `datasets` wrote as classes: it stores numbers, and their
    names beside the schema, {"info": {"features": {"label": {"_type": "ClassLabel", "names": …}}}}.
    """
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        features = info["info"]["features"].items()
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}


def read_batch(
    batch: Any, first_row: int, classes: ClassNames, piece: FileSlice, account: Account
) -> Iterator[RawRecord]:
    """The rows of a batch, of which `first_row` is the number of the first; classes by name."""
    parts = (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))
    rows = (row for part in parts for row in _rows_of(part))
    for number, fields in enumerate(rows, start=first_row):
        account.begin(piece.name, number)
        if fields is None:
            account.leave_out("row that cannot be read")
        elif (unknown := _name_classes(fields, classes)) is not None:
            account.leave_out("class without a name", unknown)
        else:
            yield whole_record(fields)


def _rows_of(batch: Any) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one that is damaged, or has a value that Python cannot hold."""
    import pyarrow as pa

    try:
        batch.validate(full=True)  # or what a damaged file says of lengths would be believed
        rows: list[dict[str, Any] | None] = batch.to_pylist()
        return rows
    except (pa.ArrowException, ValueError, OverflowError):
        if batch.num_rows == 1:
            return [None]
        return [row for i in range(batch.num_rows) for row in _rows_of(batch.slice(i, 1))]


def _name_classes(fields: dict[str, Any], classes: ClassNames) -> str | None:
    """Puts names in the place of numbers; what has no name is given back. -1 is `datasets`' word
    for a row without its class, as in the test sets of contests."""
    for column, names in classes.items():
        number = fields.get(column)
        if number == -1:
            fields[column] = None
        elif isinstance(number, int):
            if not 0 <= number < len(names):
                return f"{column}: {number} of {len(names)} classes"
            fields[column] = names[number]
    return None
