"""Documents as a data card shows them: shortened, images as thumbnails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raymodel.data.account import PLACE_COLUMNS, encodable, find_thumbnail
from raymodel.data.document import Document
from raymodel.tasks.fields import Fields, Kind

SHOWN_CHARS = 600
"""Of a text. A person sees what kind of text it is, and the page stays small."""


def shown_document(document: Document, fields: Fields, split: str) -> dict[str, Any]:
    """A document as JSON: `key`, `split`, its place, and `values`: role → what is shown.

    What is shown is a text, or of an image `{"image": "data:image/png;base64,…"}`.
    """
    return {
        "key": document.key.hex(),
        "split": split,
        **{name: getattr(document.place, name) for name in PLACE_COLUMNS},
        "values": {
            role: _shown(document.values[role], field.kind) for role, field in fields.items()
        },
    }


def shortened(text: str) -> str:
    """The beginning of a text that is long, with how much is missing."""
    if len(text) <= SHOWN_CHARS:
        return encodable(text)
    return encodable(f"{text[:SHOWN_CHARS]}… ({len(text) - SHOWN_CHARS:,} more characters)")


def _shown(value: Any, kind: Kind) -> Any:
    if kind == "image":
        return {"image": find_thumbnail(value)}
    if kind == "audio":
        from raymodel.modality.audio_decode import clip_size

        samples, rate = clip_size(value)
        return f"{samples / rate:.2f} s at {rate:,} Hz"
    if kind == "mask":
        return f"{len(value):,} bytes"
    if kind == "messages":
        return shortened("\n".join(f"{turn['role']}: {turn['content']}" for turn in value))
    if kind in ("words", "tags", "labels"):
        return shortened(" ".join(value) if kind != "labels" else ", ".join(value))
    if isinstance(value, list | Mapping):
        return shortened(json.dumps(value, ensure_ascii=False))
    return shortened(str(value))
