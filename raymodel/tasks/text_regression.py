"""Text regression: a number for each text, or for a pair of texts, such as how alike they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Measure
from raymodel.tasks.text_head import TextHead, fields_of_texts

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel


class TextRegression(TextHead):
    """A head of one output, which is the number as the data has it, on its own scale."""

    name = "text_regression"
    problem_type = "regression"
    fields = fields_of_texts("number")
    measures = MappingProxyType(
        {
            "mse": Measure(needs="answers", higher_is_better=False),
            "mae": Measure(needs="answers", higher_is_better=False),
            "pearson": Measure(needs="answers", higher_is_better=True),
            "spearman": Measure(needs="answers", higher_is_better=True),
        }
    )
    answers = "score"
    no_target = math.inf  # every finite number is one

    def label_type(self) -> pa.DataType:
        """float64."""
        import pyarrow as pa

        return pa.float64()

    def stored_label(self, value: Any) -> float:
        return float(value)

    def batch_labels(self, column: Any) -> torch.Tensor:
        """(B,) in fp32."""
        import numpy as np
        import torch

        return torch.from_numpy(np.asarray(column, dtype=np.float32))

    def loss_of(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the squared errors over the rows."""
        bears_loss = labels != self.no_target
        error_B = logits_BC.float()[:, 0] - labels.where(bears_loss, 0.0)
        return (error_B * bears_loss).square().sum()

    def model_arguments(self) -> dict[str, Any]:
        """One output, whose name says nothing, as transformers has it."""
        return {
            "num_labels": 1,
            "id2label": {0: "LABEL_0"},
            "label2id": {"LABEL_0": 0},
            "problem_type": self.problem_type,
        }

    def answers_of(self, logits_BC: torch.Tensor, model: PreTrainedModel) -> list[Answer]:
        """`score`, the number."""
        return [{"score": score} for score in logits_BC[:, 0].tolist()]

    def references(self, rows: Columns) -> list[Any]:
        """The numbers of the rows."""
        return [float(number) for number in rows["label"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`mse`, `mae`, `pearson` and `spearman`."""
        from raymodel.tasks.agreement import number_scores

        return number_scores([answer["score"] for answer in answers], references)

    def label_text(self, label: Any) -> str:
        """Such as `3.7`."""
        return f"{label:.4g}"

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `3.7`."""
        return f"{answer['score']:.4g}"
