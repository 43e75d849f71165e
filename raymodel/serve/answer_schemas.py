"""What each kind of answer of `/predict` holds, as JSON Schema.

A user's own task may tell more beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymodel.tasks.base import AnswerKind

_TEXT, _WHOLE, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}


def _several(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


_FIELDS: Mapping[AnswerKind, Mapping[str, Mapping[str, Any]]] = {
    "text": {"text": _TEXT},
    "label": {"label": _TEXT, "probs": _several(_SHARE)},
    "labels": {"labels": _several(_TEXT), "probs": _several(_SHARE)},
    "score": {"score": _NUMBER},
    "spans": {
        "tags": _several(_TEXT),
        "entities": _several(_object(label=_TEXT, start=_WHOLE, end=_WHOLE, text=_TEXT)),
    },
    "fills": {"fills": _several(_several(_object(token=_TEXT, prob=_SHARE))), "text": _TEXT},
    "extract": {"answer": _TEXT, "score": _SHARE, "start": _WHOLE, "end": _WHOLE},
    "vector": {"embedding": _several(_NUMBER)},
    "scores": {"scores": _several(_SHARE)},
    "mask": {
        "mask": {"type": "string", "contentEncoding": "base64"},
        "classes": _several(_object(number=_WHOLE, label=_TEXT, share=_SHARE, color=_TEXT)),
    },
    "objects": {
        "objects": _several(
            _object(
                label=_TEXT,
                score=_SHARE,
                box={"type": "array", "items": _NUMBER, "minItems": 4, "maxItems": 4},
            )
        )
    },
}


def schema_of_answer(kind: AnswerKind) -> dict[str, Any]:
    """Of one answer, with its place in the request."""
    fields = _FIELDS.get(kind, {})
    told = _object(index={"type": "integer", "minimum": 0}, **fields)
    # Of one that a filter took out: its texts are empty then.
    told["properties"]["finish_reason"] = {"enum": ["content_filter"]}
    return told
