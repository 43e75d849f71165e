"""A document: a record that is kept, cleaned, as it goes through the steps of preparing data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymodel.data.account import PLACE_COLUMNS, Account, Place
from raymodel.data.clean import clean_text, cut_text, reason_to_drop, values_digest
from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.cleaning.own import StepError
from raymodel.data.record import RawRecord, num_bytes
from raymodel.data.roles import COLUMN_TYPES, Value, read_roles
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.texts import clean_values, comparable, texts_of
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.tasks.conversation import opening
from raymodel.tasks.fields import Field, Fields
from raymodel.tasks.label import label_text
from raymodel.tasks.template import FieldTypeError, RecordError

FILE_IS_DOCUMENT = frozenset({"text", "folder", "python_functions"})
"""Formats whose records are parts of a document, the file."""
LOOK = "look"
"""Column of what images look like, where these are compared."""
_VALUE = "value:"


@dataclass(frozen=True, kw_only=True)
class Document:
    """A record that is kept. What was cleaned is what is stored and what becomes rows."""

    values: Mapping[str, Value]
    """By role, such as `text`, or `audio` and `label`."""
    key: bytes
    """Of two documents with the same key and label one is a duplicate: a digest of all values but
    the label, as they were before they were cut, so that a long record is not taken for another."""
    group: bytes
    """All documents of a group fall on the same side of the holdout, in every stage of the job.
    What the source names as `group`; else, where a file is one document (`FILE_IS_DOCUMENT`), a
    digest of the file: all functions of a module. Else of what the model is given: a prompt with
    all its answers, a text with all its labels, conversations that begin alike. A prompt that two
    files have with different answers can fall on both sides."""
    cut: tuple[str, ...]
    """Roles whose text was longer than `clean.max_chars`."""
    place: Place
    look: int | None = None
    """What its image looks like, in 64 bits (`dedup/looks.py`), where that was asked for and it is
    not of one shade. It is known until images were compared."""
    language: str | None = None
    """In which its texts are, in the codes of the cleaning step `language`, where a job has it."""

    @property
    def num_bytes(self) -> int:
        """Of texts in UTF-8, but for the label, and of encoded images and sounds."""
        return sum(num_bytes(value) for role, value in self.values.items() if role != "label")


def classes_of(document: Document, role: str | None) -> list[str]:
    """The classes in a document: its label or labels, the tag of each word, or the label of each
    object; none without such a role."""
    value = document.values[role] if role is not None else []
    parts = value if isinstance(value, list) else [value]
    return [str(part["label"] if isinstance(part, Mapping) else part) for part in parts]


def make_document(
    record: RawRecord,
    source: SourceSpec,
    root: Location,
    fields: Fields,
    cleaner: Cleaner,
    account: Account,
) -> Document | None:
    """Reads the roles of a record and cleans what comes of it; None, left out, if not kept. The
    account takes what was changed in what is kept.

    Args:
        root: of the source.
        fields: the roles.

    Raises:
        SourceError: a field that the job file names holds what the role cannot be, or a step of
            the user's own failed.
    """
    read: dict[str, Value] = {}
    try:
        read = read_roles(record, source, root, fields)
        values, cleaned = clean_values(read, fields, cleaner)
        compared = comparable(values, fields, cleaner, cleaned)
        look = cleaned.find_look() if cleaner.spec.dedup.name == "near" else None
        group = source.group and clean_text(label_text(record.fields, source.group))
    except RecordError as error:
        account.leave_out(error.reason, record.fields, image=find_image(read, fields))
        return None
    except (FieldTypeError, StepError) as error:
        raise SourceError(f"source {source.path!r}, {account.place}: {error}") from error
    clean = cleaner.spec
    reason = reason_to_drop([*texts_of(values, fields)], clean)
    reason = reason or _too_long(values, fields, clean)
    if reason is not None:
        account.leave_out(reason, record.fields)
        return None
    account.change(cleaned.changed)
    kept = {role: _cut(value, fields[role], clean.max_chars) for role, value in values.items()}
    first = next(iter(fields))
    given = group or _given(_cut(compared[first], fields[first], clean.max_chars), fields)
    is_part = source.format in FILE_IS_DOCUMENT and not group
    whole = [value for role, value in compared.items() if not fields[role].is_label]
    return Document(
        values=kept,
        key=values_digest(whole),
        group=record.document if is_part else values_digest([given]),
        cut=tuple(role for role, value in kept.items() if value != values[role]),
        place=account.place,
        look=look,
        language=cleaned.language,
    )


def value_column(role: str) -> str:
    """Of a table of documents: the column of a role."""
    return _VALUE + role


def find_image(values: Mapping[str, Value], fields: Fields) -> bytes | None:
    """The image among the values of a record; None where there is none."""
    found = (values.get(role) for role, field in fields.items() if field.kind == "image")
    return next((value for value in found if isinstance(value, bytes)), None)


def documents_table(
    documents: Sequence[Document], splits: Sequence[str], fields: Fields, *, looks: bool = False
) -> pa.Table:
    """What later steps need, a line a document; a role is the column `value_column`.

    Args:
        looks: whether images are compared, so that `LOOK` is a column.
    """
    values = {
        value_column(role): pa.array([d.values[role] for d in documents], COLUMN_TYPES[field.kind])
        for role, field in fields.items()
    }
    columns = {
        "cut": pa.array([d.cut for d in documents], pa.list_(pa.string())),
        "file": pa.array([d.place.file for d in documents], pa.string()),
        "line": pa.array([d.place.line for d in documents], pa.int64()),
        "byte": pa.array([d.place.byte for d in documents], pa.int64()),
        "key": pa.array([d.key for d in documents], pa.binary()),
        "group": pa.array([d.group for d in documents], pa.binary()),
        "split": pa.array(splits, pa.string()),
        "language": pa.array([d.language for d in documents], pa.string()),
    }
    if looks:
        columns[LOOK] = pa.array([d.look for d in documents], pa.uint64())
    return pa.table(values | columns)


def documents_of(table: pa.Table, fields: Fields) -> list[Document]:
    """The documents of such a table."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    # Not there in work that was begun before it was kept.
    languages = columns.get("language", [None] * table.num_rows)
    return [
        Document(
            values={role: columns[value_column(role)][index] for role in fields},
            cut=tuple(columns["cut"][index]),
            place=Place(**{name: columns[name][index] for name in PLACE_COLUMNS}),
            key=columns["key"][index],
            group=columns["group"][index],
            language=languages[index],
        )
        for index in range(table.num_rows)
    ]


def _too_long(values: Mapping[str, Any], fields: Fields, clean: CleanSpec) -> str | None:
    """Why a conversation, of which no end can be cut off, is not kept."""
    for role, field in fields.items():
        if field.kind == "messages" and _num_chars(values[role]) > clean.max_chars:
            return "conversation longer than clean.max_chars"
    return None


def _num_chars(turns: Sequence[Mapping[str, str]]) -> int:
    return sum(len(turn["content"]) for turn in turns)


def _given(value: Any, fields: Fields) -> Any:
    """What documents of one group share."""
    return opening(value) if next(iter(fields.values())).kind == "messages" else value


def _cut(value: Value, field: Field, max_chars: int) -> Value:
    """The value of a role, each of its texts no longer than it may be."""
    if field.kind == "text":
        return cut_text(str(value), max_chars, field.keeps)
    if field.kind == "texts" and isinstance(value, list):
        return [cut_text(str(text), max_chars, field.keeps) for text in value]
    return value
