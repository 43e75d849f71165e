"""Preference: a decoder learns from pairs of answers to a prompt which one is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from raymodel.tasks.base import Example, LeftOut
from raymodel.tasks.fields import Field
from raymodel.tasks.pairs import SIDES, PairTask


class Preference(PairTask):
    """Pairs of plain texts."""

    name = "preference"
    fields = MappingProxyType(
        {
            "prompt": Field(kind="text", keeps="end"),
            "chosen": Field(kind="text", is_target=True),
            "rejected": Field(kind="text", is_target=True),
        }
    )

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The ids of both sides, each closed by end-of-text; nothing is learnt of a pair with an
        empty side, or with two that are equal.

        What is too long is cut as by `causal_lm`, and the prompt is the same before both sides.

        Raises:
            ValueError: the tokenizer has no end-of-text token.
        """
        if not set(SIDES) <= set(values):  # a request
            return super().features(values, max_length)
        self.check_processor(self.processor)
        for side in SIDES:
            if not values[side].strip():
                return LeftOut(f"pair whose {side} side is empty")
        if values["chosen"].strip() == values["rejected"].strip():
            return LeftOut("pair whose sides are equal")
        tokenizer = self.processor.tokenizer
        answers = {side: self._answer_ids(values[side]) for side in SIDES}
        prompt = tokenizer(values["prompt"])["input_ids"]
        return self._pair(prompt, answers, max_length, {role: role for role in self.fields})
