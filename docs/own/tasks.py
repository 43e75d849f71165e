"""Tasks. `task: "tasks:PairClassification"` fine-tunes a model for it, and serves that.

`PairClassification` shows how a task of raymodel is changed, and what a job may say of it. The
contract is in raymodel/tasks/base.py: the roles that a record needs, how a document becomes a row,
rows a batch, a batch a loss (the *sum* over its targets), how a model answers and what is measured.
Load torch, transformers and pyarrow inside of methods, so that `raymodel check` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Sample
from raymodel.tasks.fields import Field
from raymodel.tasks.label import number_of
from raymodel.tasks.spec import AnyTask
from raymodel.tasks.text_classification import TextClassification


class PairSpec(AnyTask):
    """What a job may say: `task: {name: "tasks:PairClassification", swap: true}`."""

    swap: bool = False
    """Read the second text first."""


class PairClassification(TextClassification):
    """One class of a fixed set for two texts, such as whether the second follows from the first."""

    spec_class = PairSpec
    fields = MappingProxyType(
        {
            "first": Field(kind="text", default="{first}"),
            "second": Field(kind="text", default="{second}"),
            "label": Field(kind="label", default="label", is_target=True),
        }
    )

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Both texts as one, on lines of their own."""
        texts = [values["first"], values["second"]]
        if not all(text.strip() for text in texts):
            return LeftOut("pair with an empty text")
        if cast("PairSpec", self.spec or PairSpec(name=self.name)).swap:
            texts.reverse()
        input_ids, is_cut = self.processor.encode("\n".join(texts), max_length)
        row: dict[str, Any] = {"input_ids": input_ids}
        if "label" in values:  # a request has none
            row["label"] = number_of(values["label"], self.labels)
        return Example(features=row, cut=("second",) if is_cut else ())

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """A row as people read it; a request needs both texts, which a row has no more."""
        text = self.processor.decode(rows["input_ids"][index])
        return Sample(prompt=text, answer=answer["label"], reference=reference)
