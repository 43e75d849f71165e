"""`evaluate:` which measures are taken on held-out data, and what they must reach."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from raymodel.spec.base import Many, Spec
from raymodel.spec.quantity import Count


class EvaluateSpec(Spec):
    """Measures the base model and the tuned model; gates decide which becomes `best`."""

    metrics: Many[
        Literal["perplexity", "bits_per_byte", "bleu", "chrf", "exact_match", "accuracy", "f1"]
    ] = Field(min_length=1)
    """What to measure."""
    max_rows: Count = 512
    """Held-out rows used for the loss-based measures."""
    generate_rows: Count = 32
    """Held-out prompts answered for the measures on generated text."""
    max_new_tokens: Count = 64
    """Longest answer generated, in tokens."""
    gates: dict[str, str] = Field(default_factory=dict)
    """Measure → condition, such as `perplexity: "< 40"`. All must hold for `best` to move."""

    @field_validator("gates")
    @classmethod
    def _conditions(cls, gates: dict[str, str]) -> dict[str, str]:
        for name, condition in gates.items():
            if not re.fullmatch(r"\s*(<=|>=|<|>)\s*-?\d+(\.\d+)?(e-?\d+)?\s*", condition):
                raise ValueError(f'{name}: {condition!r} is not a condition; write e.g. "< 40"')
        return gates
