"""Multi-label classification: any number of classes of a fixed set for each text, none included."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Measure
from raymodel.tasks.label import number_of
from raymodel.tasks.text_head import TextHead, fields_of_texts

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

THRESHOLD = 0.5
"""The probability from which on a class is answered: where it is more likely than not, as
scikit-learn decides. An answer has the probabilities of all classes for those who ask for more."""


class MultiLabelClassification(TextHead):
    """Classes that do not exclude each other: a decision of its own about each."""

    name = "multi_label_classification"
    problem_type = "multi_label_classification"
    fields = fields_of_texts("labels")
    measures = MappingProxyType(
        {
            "micro_f1": Measure(needs="answers", higher_is_better=True),
            "macro_f1": Measure(needs="answers", higher_is_better=True),
            "subset_accuracy": Measure(needs="answers", higher_is_better=True),
            "hamming_loss": Measure(needs="answers", higher_is_better=False),
        }
    )
    answers = "labels"

    def label_type(self) -> pa.DataType:
        """list<int32>, the numbers of the classes."""
        import pyarrow as pa

        return pa.list_(pa.int32())

    def stored_label(self, value: Any) -> list[int]:
        """The numbers. Raises ValueError when a label is not one of `labels`."""
        return [number_of(label, self.labels) for label in value]

    def batch_labels(self, column: Any) -> torch.Tensor:
        """(B, C) in fp32: 1 at the classes of a row, else 0."""
        import numpy as np
        import torch

        labels_BC = np.zeros((len(column), len(self.labels)), dtype=np.float32)
        for labels_C, numbers in zip(labels_BC, column, strict=True):
            labels_C[np.asarray(numbers, dtype=np.int64)] = 1.0
        return torch.from_numpy(labels_BC)

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """The rows: the curve does not shrink with the number of classes."""
        return int((batch["labels"][:, 0] != self.no_target).sum())

    def loss_of(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the binary cross-entropy over the rows and their classes."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        bears_loss = (labels != self.no_target).float()
        return binary_cross_entropy_with_logits(
            logits_BC.float(), labels * bears_loss, weight=bears_loss, reduction="sum"
        )

    def answers_of(self, logits_BC: torch.Tensor, model: PreTrainedModel) -> list[Answer]:
        """`labels`, those of a probability of at least `THRESHOLD`, and `probs` of all, both in
        the order of their numbers."""
        from raymodel.tasks.classes import class_names

        names = class_names(model)
        return [
            {
                "labels": [names[i] for i, prob in enumerate(probs) if prob >= THRESHOLD],
                "probs": probs,
            }
            for probs in logits_BC.sigmoid().tolist()
        ]

    def references(self, rows: Columns) -> list[Any]:
        """The names of the labels of each row."""
        return [[self.labels[int(number)] for number in numbers] for numbers in rows["label"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`micro_f1` and `macro_f1`, `subset_accuracy` and `hamming_loss`."""
        from raymodel.tasks.agreement import label_set_scores

        predicted = [answer["labels"] for answer in answers]
        return label_set_scores(predicted, references, num_classes=len(answers[0]["probs"]))

    def label_text(self, label: Any) -> str:
        """Such as `if, raise`."""
        return ", ".join(label) or "none"

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `if, raise`."""
        return ", ".join(answer["labels"]) or "none of the labels"
