"""`evaluate:` which measures are taken on held-out data, and what they must reach."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import Field, field_validator

from raymodel.data.spec import MAX_ROW_TOKENS
from raymodel.spec.base import DISTINCT, Many, Spec, Text
from raymodel.spec.own import is_own, own_digest
from raymodel.spec.quantity import Count
from raymodel.spec.show import shorten, show


class EvaluateSpec(Spec):
    """Measures the base model and the tuned model; gates decide which becomes `best`."""

    metrics: Annotated[Many[Text], DISTINCT] = Field(min_length=1)
    """What to measure. Each task has its own: `accuracy` and `f1` of classes, `perplexity` and
    `bits_per_byte` of text, `bleu`, `chrf` and `exact_match` of answers, of an encoder–decoder's
    also `rouge1`, `rouge2` and `rougeL`, `preference_accuracy` and `chosen_loss` of pairs.
    `module.path:name` is a function of your own, of lists of answers and references."""
    max_rows: Count = Field(default=512, ge=1)
    """Held-out rows used for the loss-based measures."""
    generate_rows: Count = Field(default=32, ge=1)
    """Held-out prompts answered for the measures on generated text."""
    max_new_tokens: Count = Field(default=64, ge=1, le=MAX_ROW_TOKENS)
    """Longest answer generated, in tokens."""
    beams: int = Field(default=1, ge=1, le=64)
    """Of answers that come whole (`seq2seq_lm`), how many beginnings are carried on beside each
    other; 1 is greedy. Each costs as much as an answer of its own."""
    gates: dict[str, str] = Field(default_factory=dict, max_length=100)
    """Measure → condition, such as `perplexity: "< 40"`. All must hold for `best` to move."""

    def identity(self) -> dict[str, Any]:
        """With the text of the modules of measures that are the user's own."""
        own = {name: own_digest(name) for name in self.metrics if is_own(name)}
        return super().identity() | ({"source": own} if own else {})

    @field_validator("gates")
    @classmethod
    def _conditions(cls, gates: dict[str, str]) -> dict[str, str]:
        for name, condition in gates.items():
            match = re.fullmatch(
                r"\s*(<=|>=|<|>)\s*(-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?)\s*", condition
            )
            if match is None or not math.isfinite(float(match[2])):
                raise ValueError(
                    f'{shorten(name)}: {show(condition)} is not a condition; write e.g. "< 40"'
                )
        return gates
