"""What every part of a job file is made of: frozen, strict, keyword-only models."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from raymodel.spec.show import show

T = TypeVar("T")


class Operational:
    """Marks a field that changes how a stage runs but not what it computes.

    Such fields stay out of the fingerprint, so that a run can be resumed with other workers,
    another ZeRO stage or another logging interval and still be the same run.
    """


OPERATIONAL = Operational()


def _to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check_distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{show(value)} is given twice; keep one")
    return values


# YAML knows only lists; specs hold tuples, because a spec never changes.
Many = Annotated[tuple[T, ...], BeforeValidator(_to_tuple)]
DISTINCT = AfterValidator(_check_distinct)
"""Marks a list of choices that can each be made once."""
Text = Annotated[str, Field(min_length=1)]
"""A name or path: an empty one stands for the working folder, or for nothing, without a word."""


class Spec(BaseModel):
    """One section of a job file. Unknown keys are errors; values are never coerced."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,  # a fingerprint is taken over JSON, which has neither
    )

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec as plain YAML-able data, defaults included."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The part of the spec that determines the result: everything not marked OPERATIONAL."""
        data = {}
        for name, field in type(self).model_fields.items():
            if not any(isinstance(mark, Operational) for mark in field.metadata):
                data[name] = _identity(getattr(self, name))
        return data


def _identity(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.identity()
    if isinstance(value, tuple | list):
        return [_identity(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _identity(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def fingerprint(data: Any) -> str:
    """16 hex digits of SHA-256 over canonical JSON: the name of an artifact."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
