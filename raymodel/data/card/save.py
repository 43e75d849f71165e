"""Writes the data card beside the data that it tells of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.data.card.build import build_card
from raymodel.data.card.page import card_page
from raymodel.data.card.profile import Profile
from raymodel.data.ledger import Ledger
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

CARD_DATA, CARD_PAGE = "card.json", "card.html"
"""For programs, and for people."""


def save_card(
    place: Location,
    content: Mapping[str, Any],
    specs: Sequence[SourceSpec],
    ledger: Ledger,
    partition_sources: Sequence[int],
    profiles: Sequence[Profile],
    found: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Writes both files into the folder of a dataset.

    Args:
        content: of its manifest.
        partition_sources: the source of each partition.
        profiles: of each source.
        found: the summaries of the partitions when they were read.
        rows: and when they became rows.
    """
    sources = [
        {**told, "format": spec.format, "weight": spec.weight}
        for spec, told in zip(specs, ledger.by_source, strict=True)
    ]
    card = build_card(content, sources, partition_sources, profiles, found, rows, ledger.rejects)
    (place / CARD_DATA).write_json(card)
    (place / CARD_PAGE).write_text(card_page(card))
