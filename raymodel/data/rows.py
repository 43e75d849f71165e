"""What documents become: plain rows, which are packed tokens or an image each, or an example of a
task each.

All kinds of rows share all other steps of preparing data; see `data/step.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymodel.data.account import Account
from raymodel.data.card.profile import RowsSeen
from raymodel.data.document import Document, classes_of, find_image
from raymodel.data.pack import pack_rows
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError
from raymodel.modality import processor_of
from raymodel.modality.base import Processor
from raymodel.modality.encode import load_word_encoder
from raymodel.modality.text import unknown_id
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.base import Example, LeftOut, Task
from raymodel.tasks.fields import PLAIN, Fields, used_fields
from raymodel.tasks.pictures import image_example, image_schema
from raymodel.tasks.spec import AnyTask

TEXT_BESIDE = "text:"
"""Before a role, the name of a column: a text that is to be told in other words
(`Task.paraphrased_roles`), until it was."""


@dataclass(frozen=True, kw_only=True)
class SavedProcessor:
    """The processor of a dataset, and what its manifest says of it."""

    place: Location
    facts: Mapping[str, Any]


class Rows(NamedTuple):
    """What documents became."""

    table: pa.Table
    documents: int
    """Those that are in the table, counted there."""
    num_bytes: int
    """Of their values."""
    labels: Counter[str]
    """Documents of each class; words of each tag."""
    cut: Counter[str]
    """Role → those whose value was too long."""
    seen: RowsSeen
    """For the data card."""


@dataclass(frozen=True, kw_only=True)
class RowKind:
    """Which rows documents become: plain ones, or the examples of a task."""

    task: AnyTask | None = None
    """A `TaskSpec`; None for plain rows."""
    modality: str = "text"
    """Of plain rows: packed text, or images."""
    length: int | None
    """Tokens of a packed row, or the longest example; None where nothing is cut."""
    sources: tuple[SourceSpec, ...] = ()
    """Which optional roles there are, they say; `prepare_dataset` knows them."""

    @property
    def is_packed(self) -> bool:
        """Whether documents stand end to end in rows of one length."""
        return self.task is None and self.modality == "text"

    @property
    def fields(self) -> Fields:
        """The roles of a record."""
        whole = PLAIN[self.modality] if self.task is None else get_task(self.task.name).fields
        return used_fields(whole, self.sources)

    @property
    def class_role(self) -> str | None:
        """The role whose values are classes; None without."""
        return None if self.task is None else get_task(self.task.name).class_role()

    @property
    def label_role(self) -> str | None:
        """The role that is the one answer to all others; None without."""
        return next((role for role, field in self.fields.items() if field.is_label), None)

    def rows(
        self,
        documents: Sequence[Document],
        source: SourceSpec,
        processor: SavedProcessor,
        labels: Sequence[str],
        account: Account,
    ) -> Rows:
        """Rows of the documents, in their order. The same documents give the same rows.

        Raises:
            SourceError: a document that the data must not have.
        """
        if self.task is not None:
            return self._examples(documents, source, processor, labels, account)
        if self.is_packed:
            return self._packed(documents, processor, account)
        reader: Any = _load(processor_of(self.modality), processor.place)
        return self._one_each(
            documents,
            lambda document: image_example(document.values, reader),
            image_schema(),
            reader,
            account,
        )

    def _packed(
        self, documents: Sequence[Document], processor: SavedProcessor, account: Account
    ) -> Rows:
        facts = processor.facts
        assert facts["end_of_text"] is not None, "checked when the tokenizer was found"
        assert self.length is not None, "rows are packed to a length"
        encoder = load_word_encoder(processor.place)
        encoded = encoder.encode([str(document.values["text"]) for document in documents])
        table = pack_rows(
            encoded,
            sequence_length=self.length,
            end_of_text=facts["end_of_text"],
            padding=facts["padding"],
            vocab_size=facts["vocab_size"],
        )
        for document in documents:
            account.begin(**vars(document.place))
        return Rows(
            table,
            documents=pc.sum(pc.list_value_length(table["document_starts"])).as_py() or 0,
            num_bytes=sum(document.num_bytes for document in documents),
            labels=Counter(),
            cut=Counter(role for document in documents for role in document.cut),
            seen=RowsSeen(
                documents=documents,
                tokens=encoded.counts,
                unknown=_count(table, ("tokens",), _unknown_of(encoder.encoder, facts)),
            ),
        )

    def _examples(
        self,
        documents: Sequence[Document],
        source: SourceSpec,
        processor: SavedProcessor,
        labels: Sequence[str],
        account: Account,
    ) -> Rows:
        task = self.task_with(processor, labels)
        beside = {TEXT_BESIDE + role: role for role in task.paraphrased_roles}

        def features(document: Document) -> Example | LeftOut:
            try:
                example = task.features(document.values, self.length)
            except ValueError as error:
                raise SourceError(f"source {source.path!r}, {account.place}: {error}") from error
            if isinstance(example, LeftOut) or not beside:
                return example
            texts = {column: document.values[role] for column, role in beside.items()}
            return replace(example, features={**example.features, **texts})

        schema = pa.schema([*task.schema(), *((column, pa.string()) for column in beside)])
        return self._one_each(documents, features, schema, task.processor, account)

    def task_with(self, processor: SavedProcessor, labels: Sequence[str] = ()) -> Task:
        """The task of the examples, which reads with the dataset's processor."""
        assert self.task is not None, "the caller looked"
        kind = get_task(self.task.name)
        return kind(
            self.task,
            labels=labels,
            processor=_load(kind.processor_class(), processor.place),
            roles=self.fields,
        )

    def _one_each(
        self,
        documents: Sequence[Document],
        features_of: Callable[[Document], Example | LeftOut],
        schema: pa.Schema,
        processor: Processor,
        account: Account,
    ) -> Rows:
        kept, features, cut = list[Document](), [], Counter[str]()
        is_whole = list[bool]()
        classes = Counter[str]()
        for document in documents:
            account.begin(**vars(document.place))
            example = features_of(document)
            if isinstance(example, LeftOut):
                image = find_image(document.values, self.fields)
                account.leave_out(example.reason, dict(document.values), image=image)
                continue
            kept.append(document)
            features.append(example.features)
            is_whole.append(not example.cut)
            cut.update({*document.cut, *example.cut})
            classes.update((*classes_of(document, self.class_role), *example.classes))
        table = pa.Table.from_pylist(features, schema=schema)
        return Rows(
            table,
            documents=table.num_rows,
            num_bytes=sum(document.num_bytes for document in kept),
            labels=classes,
            cut=cut,
            seen=RowsSeen(
                documents=kept,
                tokens=row_tokens(table) if _token_columns(table) else None,
                is_whole=np.array(is_whole, dtype=bool),
                unknown=_count(table, _token_columns(table), processor.unknown),
            ),
        )


_TOKEN_LISTS = ("input_ids", "target_ids", "chosen_ids", "rejected_ids")
"""Columns of tokens that a model reads or writes in training."""


def row_tokens(table: pa.Table) -> Any:
    """Real tokens of each row: `length` of packed rows, else of what is read and what is written;
    rows without tokens, such as images and sounds, count one each. (n,) int64"""
    if "length" in table.column_names:
        return table["length"].to_numpy().astype(np.int64)
    lists = _token_columns(table)
    if not lists:
        return np.ones(table.num_rows, dtype=np.int64)
    return sum(pc.list_value_length(table[name]).to_numpy().astype(np.int64) for name in lists)


def _unknown_of(encoder: Any, facts: Mapping[str, Any]) -> int | None:
    """None too where the end of a text is called unknown, as GPT-2's tokenizer does."""
    unknown = unknown_id(encoder)
    return None if unknown in (facts["end_of_text"], facts["padding"]) else unknown


def _token_columns(table: pa.Table) -> list[str]:
    return [name for name in _TOKEN_LISTS if name in table.column_names]


def _count(table: pa.Table, columns: Sequence[str], token: int | None) -> int | None:
    """How often a token stands in these columns; None where there is none to count."""
    if token is None or not columns:
        return None
    return sum(
        int(np.count_nonzero(pc.list_flatten(table[name]).to_numpy() == token)) for name in columns
    )


@functools.lru_cache(maxsize=2)
def _load(kind: type[Processor], place: Location) -> Processor:
    return kind.load(place)
