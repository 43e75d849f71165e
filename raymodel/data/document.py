"""A document: a record that is kept, cleaned, as it goes through the steps of preparing data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raymodel.data.account import PLACE_COLUMNS, Account, Place
from raymodel.data.clean import Kept, clean_text, cut_text, reason_to_drop, texts_digest
from raymodel.data.record import RawRecord
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.errors import SourceError
from raymodel.tasks.label import label_text
from raymodel.tasks.template import FieldTypeError, RecordError, render

FILE_IS_DOCUMENT = frozenset({"text", "folder", "python_functions"})
"""Formats whose records are parts of a document, the file."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A record that is kept. What was cleaned is what is stored and what becomes rows."""

    texts: Mapping[str, str]
    """By role, such as `text`, or `prompt` and `response`."""
    label: str | None
    key: bytes
    """Of two documents with the same key and label one is a duplicate: a digest of all texts as
    they were before they were cut, so that a long record is not taken for another one."""
    group: bytes
    """All documents of a group fall on the same side of the holdout, in every stage of the job.
    Where a file is one document (`FILE_IS_DOCUMENT`), a digest of the file: all functions of a
    module. Else of what the model is given: a prompt with all its answers, a text with all its
    labels. A prompt that two files have with different answers can fall on both sides."""
    cut: tuple[str, ...]
    """Roles whose text was longer than `clean.max_chars`."""
    place: Place

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(len(text.encode()) for text in self.texts.values())


def make_document(
    record: RawRecord,
    source: SourceSpec,
    roles: Mapping[str, Kept],
    has_labels: bool,
    clean: CleanSpec,
    account: Account,
) -> Document | None:
    """Fills the templates of a source and cleans what comes of it; None, left out, if not kept.

    Args:
        roles: which templates, and which end of a text stays when it is too long.
        has_labels: whether the record must have a label.

    Raises:
        SourceError: a field that the job file names holds what is not text.
    """
    label = None
    try:
        texts = {role: clean_text(render(getattr(source, role), record.fields)) for role in roles}
        if has_labels:
            assert source.label is not None, "check_source asks for a label"
            label = clean_text(label_text(record.fields, source.label))
    except RecordError as error:
        account.leave_out(error.reason, record.fields)
        return None
    except FieldTypeError as error:
        raise SourceError(f"source {source.path!r}, {account.place}: {error}") from error
    reason = reason_to_drop(texts.values(), clean)
    if reason is not None:
        account.leave_out(reason, record.fields)
        return None
    kept = {role: cut_text(texts[role], clean.max_chars, end) for role, end in roles.items()}
    given = next(iter(kept.values()))
    is_part = source.format in FILE_IS_DOCUMENT
    return Document(
        texts=kept,
        label=label,
        key=texts_digest(texts.values()),
        group=record.document if is_part else texts_digest([given]),
        cut=tuple(role for role in kept if len(kept[role]) < len(texts[role])),
        place=account.place,
    )


def documents_table(
    documents: Sequence[Document], held_out: Sequence[bool], roles: Iterable[str]
) -> pa.Table:
    """What the row step needs, a line a document; the text of a role is the column `text:ROLE`."""
    texts = {
        f"text:{role}": pa.array([d.texts[role] for d in documents], pa.large_string())
        for role in roles
    }
    columns = {
        "label": pa.array([d.label for d in documents], pa.string()),
        "cut": pa.array([d.cut for d in documents], pa.list_(pa.string())),
        "file": pa.array([d.place.file for d in documents], pa.string()),
        "line": pa.array([d.place.line for d in documents], pa.int64()),
        "byte": pa.array([d.place.byte for d in documents], pa.int64()),
        "key": pa.array([d.key for d in documents], pa.binary()),
        "group": pa.array([d.group for d in documents], pa.binary()),
        "held_out": pa.array(held_out, pa.bool_()),
    }
    return pa.table(texts | columns)


def documents_of(table: pa.Table, roles: Iterable[str]) -> list[Document]:
    """The documents of such a table."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    return [
        Document(
            texts={role: columns[f"text:{role}"][index] for role in roles},
            label=columns["label"][index],
            cut=tuple(columns["cut"][index]),
            place=Place(**{name: columns[name][index] for name in PLACE_COLUMNS}),
            key=columns["key"][index],
            group=columns["group"][index],
        )
        for index in range(table.num_rows)
    ]
