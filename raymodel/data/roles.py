"""From a raw record to the values of its roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from raymodel.data.clean import clean_text
from raymodel.data.record import RawRecord
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.archive_stream import DamagedMemberError
from raymodel.storage.uri import Location
from raymodel.tasks.conversation import find_form, read_turns
from raymodel.tasks.fields import Field, Fields, Kind, reference_of
from raymodel.tasks.label import label_text, label_texts, number_value
from raymodel.tasks.objects import read_objects
from raymodel.tasks.squad import read_answers
from raymodel.tasks.tags import check_tags
from raymodel.tasks.template import FieldTypeError, RecordError, described, render

Value = str | bytes | float | list[Any]

MAX_FILE_BYTES = 256 * 2**20
"""Of one image or clip, encoded: it lies in the memory of one process."""

COLUMN_TYPES: dict[Kind, pa.DataType] = {
    "text": pa.large_string(),
    "texts": pa.large_list(pa.large_string()),
    "label": pa.string(),
    "labels": pa.large_list(pa.string()),
    "number": pa.float64(),
    "image": pa.large_binary(),
    "audio": pa.large_binary(),
    "mask": pa.large_binary(),
    "objects": pa.large_list(pa.struct({"label": pa.string(), "box": pa.list_(pa.float64())})),
    "words": pa.large_list(pa.string()),
    "tags": pa.large_list(pa.string()),
    "answers": pa.large_list(pa.struct({"text": pa.large_string(), "start": pa.int64()})),
    "messages": pa.large_list(pa.struct({"role": pa.string(), "content": pa.large_string()})),
}
"""How documents keep each kind of value."""


def read_roles(
    record: RawRecord,
    source: SourceSpec,
    root: Location,
    fields: Fields,
) -> dict[str, Value]:
    """Role → its value, with the line ends of texts made alike.

    Args:
        root: of the source, below which the files lie that a record names.

    Raises:
        RecordError: this record lacks a value, or its tags are not those of its words.
        FieldTypeError: a field holds what the role cannot be.
    """
    values = {
        role: _read(field, reference_of(source, role, field), record, source, root)
        for role, field in fields.items()
    }
    # Here already, because the tags of every document that is kept are classes.
    _check_tags({field.kind: values[role] for role, field in fields.items()})
    return values


def forms_of(record: RawRecord, source: SourceSpec, fields: Fields) -> dict[str, str]:
    """Role → in words how a record, which has been read, writes what it was not told to hold."""
    return {
        role: find_form(record.fields, reference_of(source, role, field)).text
        for role, field in fields.items()
        if field.kind == "messages"
    }


def _read(
    field: Field, reference: str, record: RawRecord, source: SourceSpec, root: Location
) -> Value:
    if field.kind == "text":
        return clean_text(render(reference, record.fields))
    if field.kind == "label":
        return clean_text(label_text(record.fields, reference))
    if field.kind == "labels":
        texts = label_texts(record.fields, reference, source.label_separator)
        return sorted({clean_text(text) for text in texts})
    if field.kind == "number":
        return number_value(record.fields, reference)
    if field.kind == "messages":
        turns = read_turns(record.fields, reference)
        return [turn | {"content": clean_text(turn["content"])} for turn in turns]
    value = record.fields.get(reference)
    if value is None:
        reason = f"record without a value in {reference!r}"
        raise RecordError(reason, reason)
    if field.kind == "answers":
        answers = read_answers(value, reference)
        return [answer | {"text": clean_text(answer["text"])} for answer in answers]
    if field.kind == "objects":
        return read_objects(value, reference)
    if field.kind in ("texts", "words"):
        return _words(value, reference)
    if field.kind == "tags":  # classes, which have no white space around them
        return [tag.strip() for tag in _words(value, reference)]
    return _file(value, field.kind, reference, root)


def _words(value: object, reference: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FieldTypeError(
            f"the field {reference!r} holds {described(value)}; this role takes a list of texts. "
            "Name the field that holds one"
        )
    return [clean_text(word) for word in value]


def _check_tags(by_kind: Mapping[Kind, Any]) -> None:
    if "words" in by_kind and "tags" in by_kind:
        check_tags(by_kind["words"], by_kind["tags"])


def _file(value: object, kind: Kind, reference: str, root: Location) -> bytes:
    if isinstance(value, dict):  # as `datasets` writes: one of the two, or both
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise FieldTypeError(
            f"the field {reference!r} holds {described(value)}; the role's {kind} is the encoded "
            "bytes, or the path of a file below the source. Name the field that holds one"
        )
    return _read_file(value, reference, root)


def _read_file(path: str, reference: str, root: Location) -> bytes:
    if path.startswith("/") or "://" in path or ".." in path.split("/"):
        reason = f"path outside the source in {reference!r}"
        raise RecordError(f"{reason}: {path!r}", reason)
    place = root / path
    try:
        if not place.exists():
            reason = f"file that does not exist in {reference!r}"
            raise RecordError(f"{reason}: {path!r}", reason)
        if place.entry().bytes > MAX_FILE_BYTES:
            reason = f"file of more than {MAX_FILE_BYTES:,} bytes in {reference!r}"
            raise RecordError(f"{reason}: {path!r}", reason)
        return place.read_bytes()
    except DamagedMemberError as error:
        raise RecordError(f"{error}: {path!r}", str(error)) from error
    except IsADirectoryError as error:
        raise SourceError(f"{place} is a folder; {reference!r} must name files") from error
