"""Text classification: one label of a fixed set for each text, or pair of texts (entailment)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer
from raymodel.tasks.classification import Classification
from raymodel.tasks.label import number_of
from raymodel.tasks.text_head import TextHead, fields_of_texts

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from raymodel.tasks.loss import Scores


class TextClassification(TextHead, Classification):
    """Classes that exclude each other."""

    name = "text_classification"
    problem_type = "single_label_classification"
    fields = fields_of_texts("label")
    has_scores = True

    def label_type(self) -> pa.DataType:
        """int32, the number of the class."""
        import pyarrow as pa

        return pa.int32()

    def stored_label(self, value: Any) -> int:
        """The number. Raises ValueError when the label is not one of `labels`."""
        return number_of(value, self.labels)

    def batch_labels(self, column: Any) -> torch.Tensor:
        """(B,)."""
        from raymodel.tasks.batch import class_labels

        return class_labels({"label": column})["labels"]

    def loss_of(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropy over the examples."""
        from raymodel.tasks.loss import cross_entropy_sum

        return cross_entropy_sum(logits_BC, labels)

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Of each text."""
        from raymodel.tasks.loss import Scores

        return Scores(logits_NV=self.logits_of(model, batch), targets_N=batch["labels"])

    def answers_of(self, logits_BC: torch.Tensor, model: PreTrainedModel) -> list[Answer]:
        """`label`, and `probs` of all labels in the order of their numbers."""
        from raymodel.tasks.classes import label_answers

        return label_answers(logits_BC, model)

    def label_text(self, label: Any) -> str:
        return str(label)
