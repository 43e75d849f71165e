"""The documents of a partition in portions, so that only some are Python objects at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from raymodel.data.dedup.texts import compared_texts
from raymodel.data.dedup.words import batches
from raymodel.data.document import Document, documents_of
from raymodel.tasks.fields import Fields

PORTION_ROWS = 4096
"""Documents that are Python objects at a time."""


class Portion(NamedTuple):
    """Documents that are looked at together."""

    places: Any
    """In the table. (n,) int64"""
    documents: list[Document]
    texts: list[list[str]]
    """Of each, what is compared; as many of all."""


def portions(table: pa.Table, places: Any, fields: Fields) -> Iterator[Portion]:
    """Those documents of a table that stand at some places, in their order."""
    for start in range(0, len(places), PORTION_ROWS):
        some = places[start : start + PORTION_ROWS]
        documents = documents_of(table.take(pa.array(some)), fields)
        texts = [compared_texts(document.values, fields) for document in documents]
        for part in batches(texts):
            yield Portion(some[part], documents[part], texts[part])
