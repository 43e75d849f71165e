"""What a document becomes: packed rows of tokens, or examples of a task.

The two kinds share all other steps of preparing data; see `data/steps.py`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymodel.data.account import Account
from raymodel.data.clean import clean_text
from raymodel.data.pack import pack_rows
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.tokenizer import TokenizerContent, load_encoder, load_tokenizer
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.template import render, template_fields


class Document(NamedTuple):
    """A record that is kept."""

    text: str
    """What two documents must have in common to be duplicates, and whose bytes are counted."""
    stored: str
    """What the rows are made of."""
    label: Any = None


class SavedTokenizer(NamedTuple):
    """A tokenizer of a dataset that is being made."""

    place: Location
    content: TokenizerContent


Labels = Sequence[str]


class RowKind(Protocol):
    """How records become rows. Picklable."""

    def document(
        self, fields: dict[str, Any], source: SourceSpec, account: Account
    ) -> Document | None:
        """A raw record as a document; None, left out, when it is not kept."""
        ...

    def rows(
        self, stored: Sequence[str], source: SourceSpec, tokenizer: SavedTokenizer, labels: Labels
    ) -> pa.Table:
        """Rows of the documents, in their order. The same documents give the same rows."""
        ...


@dataclass(frozen=True)
class PackedRows:
    """Documents of plain text, packed into rows of equal length."""

    sequence_length: int
    clean: CleanSpec

    def document(
        self, fields: dict[str, Any], source: SourceSpec, account: Account
    ) -> Document | None:
        if not _has_fields(fields, (source.text,), account):
            return None
        text = clean_text(render(source.text, fields), self.clean, account)
        return None if text is None else Document(text, text)

    def rows(
        self, stored: Sequence[str], source: SourceSpec, tokenizer: SavedTokenizer, labels: Labels
    ) -> pa.Table:
        content = tokenizer.content
        assert content.end_of_text is not None, "checked when the tokenizer was found"
        encoded = load_encoder(tokenizer.place).encode_batch_fast(
            list(stored), add_special_tokens=False
        )
        return pack_rows(
            [document.ids for document in encoded],
            sequence_length=self.sequence_length,
            end_of_text=content.end_of_text,
            padding=content.padding,
            vocab_size=content.vocab_size,
        )


@dataclass(frozen=True)
class ExampleRows:
    """Labelled records as examples of a task, one a row."""

    task: str
    max_length: int
    clean: CleanSpec

    def document(
        self, fields: dict[str, Any], source: SourceSpec, account: Account
    ) -> Document | None:
        templates = [text for text in (source.prompt, source.response) if text] or [source.text]
        if not _has_fields(fields, templates, account):
            return None
        label = None
        if source.label is not None:
            label = fields.get(source.label)
            if label is None or label == "":
                account.leave_out(f"record without a value in {source.label!r}", fields)
                return None
        text = "\0".join(render(template, fields) for template in templates)
        cleaned = clean_text(text, self.clean, account)
        if cleaned is None:
            return None
        return Document(cleaned, json.dumps(fields, default=str), label)

    def rows(
        self, stored: Sequence[str], source: SourceSpec, tokenizer: SavedTokenizer, labels: Labels
    ) -> pa.Table:
        task, examples = get_task(self.task)(labels), []
        loaded = _load_cached(tokenizer.place)
        for text in stored:
            try:
                features = task.features(json.loads(text), source, loaded, self.max_length)
            except ValueError as error:
                raise SourceError(f"source {source.path!r}: {error}") from error
            if features is not None:
                examples.append(features)
        return pa.Table.from_pylist(examples, schema=task.schema())


def row_tokens(table: pa.Table) -> Any:
    """Real tokens of each row: `length` of packed rows, else the length of the token list."""
    if "length" in table.column_names:
        return table["length"].to_numpy().astype(np.int64)
    for field in table.schema:
        if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type):
            return pc.list_value_length(table[field.name]).to_numpy().astype(np.int64)
    return np.zeros(table.num_rows, dtype=np.int64)


def _has_fields(fields: dict[str, Any], templates: Sequence[str], account: Account) -> bool:
    for template in templates:
        for name in template_fields(template):
            if name not in fields:
                account.leave_out(f"record without the field {name!r}", fields)
                return False
    return True


@functools.lru_cache(maxsize=2)
def _load_cached(place: Location) -> Any:
    return load_tokenizer(place)
