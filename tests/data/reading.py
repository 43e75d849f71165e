"""Reads files as `prepare` does, in one piece or in many."""

from pathlib import Path
from typing import Any

from raymodel.data.account import Account
from raymodel.data.read import read_slice, slice_files
from raymodel.data.record import RawRecord
from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read_source(spec: SourceSpec, partition_bytes: int = 2**20) -> tuple[list[RawRecord], Account]:
    """The records of a source and their account, which adds up."""
    files, account = resolve_source(spec), Account()
    records = [
        record
        for partition in slice_files(files, spec, partition_bytes)
        for piece in partition
        for record in read_slice(files.root, piece, spec, account)
    ]
    assert account.kept == len(records)
    return records, account


def read_file(
    folder: Path, name: str, data: str | bytes, partition_bytes: int = 2**20, **spec: Any
) -> tuple[list[RawRecord], Account]:
    """Writes one file and reads it."""
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_source(SourceSpec(path=str(folder / name), **spec), partition_bytes)


def texts(records: list[RawRecord]) -> list[Any]:
    return [record.fields.get("text") for record in records]


def lines_left_out(account: Account) -> dict[str, list[int | None]]:
    """Reason → lines of its first records."""
    lines: dict[str, list[int | None]] = {}
    for reject in account.rejects:
        lines.setdefault(reject.reason, []).append(reject.place.line)
    return lines
