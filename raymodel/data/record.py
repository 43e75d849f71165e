"""What readers take and give: a piece of a file, and raw records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class FileSlice:
    """Bytes `start` … `end` of a file; a record belongs to the slice where it begins."""

    name: str
    start: int
    end: int
    file_bytes: int
    """Of the whole file when it was listed: a file that changes meanwhile is found out."""


# As `json.dumps` writes it, which would make an encoder for every record.
_canonical = json.JSONEncoder(sort_keys=True, default=str).encode


class RawRecord(NamedTuple):
    """One record as its source gives it."""

    fields: dict[str, Any]
    """What JSON and Parquet can hold: an image is `bytes`, as encoded; tokens are a list."""
    document: bytes
    """Digest of the document that the record is part of: of the whole file where a file is one
    document (`text`, `folder`, `python_functions`), else of the record, of its image where it has
    one. It decides the holdout, so that all functions of a module fall on the same side, in every
    stage that reads the module."""


def num_bytes(value: Any) -> int:
    """Of the texts, in UTF-8, and the encoded files in a value, however deep they lie."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    parts = value.values() if isinstance(value, Mapping) else value
    return sum(map(num_bytes, parts)) if isinstance(value, Mapping | list) else 0


def digest_of(data: bytes) -> bytes:
    """16 bytes that stand for a document or a text."""
    return hashlib.blake2b(data, digest_size=16).digest()


def whole_record(fields: dict[str, Any]) -> RawRecord:
    """A row of a table, whose document is the row."""
    return RawRecord(fields, digest_of(_canonical(fields).encode()))
