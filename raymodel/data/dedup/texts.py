"""What of a document is compared with others: its texts, but for the answer that is its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.data.dedup.spec import DecodedDedup, NearDedup
from raymodel.spec.base import Spec
from raymodel.tasks.fields import Fields

_TEXTS = frozenset({"text", "texts", "words", "messages"})


def find_wrong_dedup(spec: Spec, fields: Fields) -> str | None:
    """Why documents of these roles cannot be compared so; None where they can."""
    if isinstance(spec, DecodedDedup):
        if any(field.kind in ("image", "audio") for field in fields.values()):
            return None
        return "`decoded` compares images and sounds, and the documents have none; use exact"
    return _find_wrong_near(spec, fields) if isinstance(spec, NearDedup) else None


def _find_wrong_near(spec: NearDedup, fields: Fields) -> str | None:
    said = spec.model_fields_set & {"threshold", "ngram", "distance"}
    if role := next((role for role, field in fields.items() if field.kind == "audio"), None):
        return (
            f"`near` compares texts or images, and the documents have the role `{role}`, of which "
            "nothing would be heard; use decoded"
        )
    if compares_images(fields):
        if has_texts(fields):
            return "`near` compares texts or images, and the documents have both; use exact"
        of_texts = sorted(said - {"distance"})
        return f"`{of_texts[0]}` is of texts; of images say `distance`" if of_texts else None
    if not has_texts(fields):
        return "`near` compares texts or images, and the documents have none"
    return "`distance` is of images; of texts say `threshold`" if "distance" in said else None


def compares_images(fields: Fields) -> bool:
    """Whether what documents look like is compared."""
    return any(field.kind == "image" for field in fields.values())


def has_texts(fields: Fields) -> bool:
    """Whether anything is text but the label."""
    return any(field.kind in _TEXTS for field in fields.values())


def num_texts(fields: Fields) -> int:
    """How many `compared_texts` gives."""
    return sum(2 if f.kind == "messages" else f.kind in _TEXTS for f in fields.values())


def compared_texts(values: Mapping[str, Any], fields: Fields) -> list[str]:
    """The texts of a document, as many of all documents with these roles.

    What people, or whoever asks, said in a conversation is one text, and the answers another: with
    the same long instructions before them, two conversations would be near whatever is answered.
    """
    return [
        text
        for role, field in fields.items()
        if field.kind in _TEXTS
        for text in _texts(values[role], field.kind)
    ]


def _texts(value: Any, kind: str) -> list[str]:
    if kind == "text":
        return [str(value)]
    if kind == "messages":
        return [_said(value, by_model=False), _said(value, by_model=True)]
    return ["\n".join(value)]


def _said(turns: Sequence[Mapping[str, str]], *, by_model: bool) -> str:
    return "\n".join(t["content"] for t in turns if (t["role"] == "assistant") == by_model)
