"""What of a document is compared with others: its texts, but for the answer that is its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.tasks.fields import Fields

_TEXTS = frozenset({"text", "texts", "words", "messages"})


def find_wrong_dedup(fields: Fields) -> str | None:
    """Why documents of these roles cannot be compared by their texts; None where they can."""
    seen = [role for role, field in fields.items() if field.kind in ("image", "audio", "mask")]
    if seen:
        return (
            f"`near` compares texts, and the documents have the role `{seen[0]}`, of which nothing "
            "would be seen; use exact"
        )
    return None if has_texts(fields) else "`near` compares texts, and the documents have none"


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
