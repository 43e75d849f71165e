"""What a record becomes: a document, and then packed rows of tokens, or an example of a task.

The two kinds of rows share all other steps of preparing data; see `data/steps.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymodel.data.account import Account
from raymodel.data.clean import Kept
from raymodel.data.document import Document, make_document
from raymodel.data.pack import pack_rows
from raymodel.data.record import RawRecord
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.tokenizer import TokenizerContent, load_encoder, load_tokenizer
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut


class SavedTokenizer(NamedTuple):
    """A tokenizer of a dataset that is being made."""

    place: Location
    content: TokenizerContent


class Rows(NamedTuple):
    """What documents became."""

    table: pa.Table
    documents: int
    """Those that are in the table, counted there."""
    text_bytes: int
    """Their UTF-8 bytes."""
    labels: Counter[str]
    """Their labels."""
    cut: Counter[str]
    """Role → those whose text was too long."""


Labels = Sequence[str]


class RowKind(Protocol):
    """How records become rows. Picklable."""

    @property
    def roles(self) -> Mapping[str, Kept]:
        """The texts of a document, and which end of each stays when it is too long. The first is
        what the model is given."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether documents have labels."""
        ...

    def document(self, record: RawRecord, source: SourceSpec, account: Account) -> Document | None:
        """A raw record as a document; None, left out, when it is not kept.

        Raises:
            SourceError: the job file asks for what the record does not hold as text.
        """
        ...

    def rows(
        self,
        documents: Sequence[Document],
        source: SourceSpec,
        tokenizer: SavedTokenizer,
        labels: Labels,
        account: Account,
    ) -> Rows:
        """Rows of the documents, in their order. The same documents give the same rows."""
        ...


@dataclass(frozen=True)
class PackedRows:
    """Documents of plain text, packed into rows of equal length."""

    sequence_length: int
    clean: CleanSpec

    @property
    def roles(self) -> Mapping[str, Kept]:
        return {"text": "start"}

    @property
    def has_labels(self) -> bool:
        return False

    def document(self, record: RawRecord, source: SourceSpec, account: Account) -> Document | None:
        return make_document(record, source, self.roles, self.has_labels, self.clean, account)

    def rows(
        self,
        documents: Sequence[Document],
        source: SourceSpec,
        tokenizer: SavedTokenizer,
        labels: Labels,
        account: Account,
    ) -> Rows:
        content = tokenizer.content
        assert content.end_of_text is not None, "checked when the tokenizer was found"
        encoded = load_encoder(tokenizer.place).encode_batch_fast(
            [document.texts["text"] for document in documents], add_special_tokens=False
        )
        table = pack_rows(
            [document.ids for document in encoded],
            sequence_length=self.sequence_length,
            end_of_text=content.end_of_text,
            padding=content.padding,
            vocab_size=content.vocab_size,
        )
        for document in documents:
            account.begin(**vars(document.place))
        return Rows(
            table,
            documents=pc.sum(pc.list_value_length(table["document_starts"])).as_py() or 0,
            text_bytes=sum(document.text_bytes for document in documents),
            labels=Counter(),
            cut=Counter(role for document in documents for role in document.cut),
        )


@dataclass(frozen=True)
class ExampleRows:
    """Labelled records as examples of a task, one a row."""

    task: str
    max_length: int
    clean: CleanSpec

    @property
    def roles(self) -> Mapping[str, Kept]:
        return get_task(self.task).roles

    @property
    def has_labels(self) -> bool:
        return get_task(self.task).has_labels

    def document(self, record: RawRecord, source: SourceSpec, account: Account) -> Document | None:
        return make_document(record, source, self.roles, self.has_labels, self.clean, account)

    def rows(
        self,
        documents: Sequence[Document],
        source: SourceSpec,
        tokenizer: SavedTokenizer,
        labels: Labels,
        account: Account,
    ) -> Rows:
        task, loaded = get_task(self.task)(labels), _load_cached(tokenizer.place)
        kept, features, cut = list[Document](), [], Counter[str]()
        for document in documents:
            account.begin(**vars(document.place))
            try:
                example = task.features(document.texts, document.label, loaded, self.max_length)
            except ValueError as error:
                raise SourceError(f"source {source.path!r}, {account.place}: {error}") from error
            if isinstance(example, LeftOut):
                account.leave_out(example.reason, dict(document.texts))
                continue
            kept.append(document)
            features.append(example.features)
            cut.update({*document.cut, *example.cut})
        table = pa.Table.from_pylist(features, schema=task.schema())
        return Rows(
            table,
            documents=table.num_rows,
            text_bytes=sum(document.text_bytes for document in kept),
            labels=Counter(document.label for document in kept if document.label is not None),
            cut=cut,
        )


def row_tokens(table: pa.Table) -> Any:
    """Real tokens of each row: `length` of packed rows, else the length of the token list."""
    if "length" in table.column_names:
        return table["length"].to_numpy().astype(np.int64)
    for field in table.schema:
        if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type):
            return pc.list_value_length(table[field.name]).to_numpy().astype(np.int64)
    return np.zeros(table.num_rows, dtype=np.int64)


@functools.lru_cache(maxsize=2)
def _load_cached(place: Location) -> Any:
    return load_tokenizer(place)
