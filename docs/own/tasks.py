"""Tasks. `task: "tasks:LongTextClassification"` fine-tunes a model for it, and serves that.

It shows how a task of raymodel is changed, and what a job may say of it. The contract is in
raymodel/tasks/base/: the roles that a record needs, how a document becomes a row, rows a batch, a
batch a loss (the *sum* over its targets, in fp32), how a model answers and what is measured. Load
torch, transformers and pyarrow inside of methods, so that `raymodel check` stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, cast

from raymodel.spec.quantity import Fraction
from raymodel.tasks.base import Example, LeftOut
from raymodel.tasks.spec import OF_TRAINING, AnyTask
from raymodel.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    import torch


class LongTextSpec(AnyTask):
    """What a job may say: `task: {name: "tasks:LongTextClassification", start: 40%}`."""

    start: Fraction = 0.25
    """Of the tokens that fit, the share that is kept of a text's start; the rest is of its end."""
    smoothing: Annotated[Fraction, OF_TRAINING] = 0.1
    """The share of the target that all classes have alike (arXiv:1512.00567). `OF_TRAINING` says
    that it leaves the rows as they are, so that they are not made again for another value."""


class LongTextClassification(TextClassification):
    """One class for a text, of which both ends are read where it is too long (arXiv:1905.05583)."""

    spec_class = LongTextSpec
    fields = MappingProxyType({role: TextClassification.fields[role] for role in ("text", "label")})

    @property
    def said(self) -> LongTextSpec:
        return cast("LongTextSpec", self.spec or LongTextSpec(name=self.name))

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Token ids, and the number of the label; a text that is too long loses its middle."""
        whole = super().features(values, None)
        if isinstance(whole, LeftOut) or max_length is None:
            return whole
        ids = whole.features["input_ids"]
        if len(ids) <= max_length:
            return whole
        start = round(max_length * self.said.start)
        kept = ids[:start] + ids[len(ids) - (max_length - start) :]
        return Example(features={**whole.features, "input_ids": kept}, cut=("text",))

    def loss_of(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the smoothed cross-entropy over the rows; -100 marks rows that bear none."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            logits_BC.float(),
            labels,
            reduction="sum",
            ignore_index=-100,
            label_smoothing=self.said.smoothing,
        )
