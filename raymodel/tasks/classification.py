"""What the tasks share that give one class of a fixed set, whatever they are given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import MappingProxyType
from typing import Any

from raymodel.tasks.base import Answer, Columns, Measure, Reading, Table, Task


class Classification(Task):
    """Rows have the number of their class in `label`; a model has a head for the classes."""

    measures = MappingProxyType(
        {
            "accuracy": Measure(needs="answers", higher_is_better=True),
            "f1": Measure(needs="answers", higher_is_better=True),
        }
    )
    answers = "label"
    logits = "BC"
    draws_head = True

    def references(self, rows: Columns) -> list[Any]:
        """The names of the labels."""
        return [self.labels[int(number)] for number in rows["label"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`accuracy` and macro `f1`."""
        from raymodel.tasks.agreement import label_scores

        return label_scores([answer["label"] for answer in answers], references)

    def tables(
        self,
        answers: Sequence[Answer],
        references: Sequence[Any],
        readings: Sequence[Reading] = (),
    ) -> list[Table]:
        """Which class is taken for which."""
        from raymodel.tasks.confusion import confusion_table

        return [confusion_table([answer["label"] for answer in answers], references)]

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `sports (98%)`."""
        return f"{answer['label']} ({max(answer['probs']):.0%})"
