"""How a model answers for a task, and how well."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base.data import OfData
from raymodel.tasks.base.values import Answer, Columns, Limits, Reading, Sample, Table
from raymodel.tasks.likelihood import likelihood_scores

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class OfAnswers(OfData):
    """What `evaluate/` and `serve/` call. Answers are held against what rows hold."""

    def measure_loss(self, loss: float, num_targets: int, num_bytes: int) -> dict[str, float]:
        """Those of `measures` that need the loss. Must load neither torch nor transformers.

        Args:
            loss: the sum over all targets, as `loss` gives it: nats of a likelihood by default.
            num_targets: that bear it.
            num_bytes: of their text.

        Raises:
            ValueError: there is no target.
        """
        return likelihood_scores(loss, num_targets, num_bytes)

    def readings(self, model: PreTrainedModel, rows: Columns) -> list[Reading]:
        """What a model makes of B examples; for `base_readings`, and measures that need them.

        Runs on the model's device, without gradients; the model is in evaluation mode.
        """
        raise NotImplementedError(f"{self.name} has no readings")

    def measure_readings(self, readings: Sequence[Reading]) -> dict[str, float]:
        """Those of `measures` that need readings. Must load neither torch nor transformers."""
        raise NotImplementedError(f"{self.name} has no readings")

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns are examples of this task."""
        return set(self.schema().names) <= set(columns)

    def has_answers(self, rows: Columns) -> bool:
        """Whether there is something to answer in these rows, and something to hold it against."""
        return True

    def target_bytes(self, batch: Mapping[str, torch.Tensor]) -> int:
        """UTF-8 bytes of the targets, where they are text."""
        return 0

    @abstractmethod
    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """What a model answers to B examples or requests; evaluation and serving both ask here.

        Runs on the model's device, without gradients; the model is in evaluation mode.
        """

    @abstractmethod
    def references(self, rows: Columns) -> list[Any]:
        """What would be right, one for each row, as JSON holds it."""

    @abstractmethod
    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """Those of `measures` that need answers. Must load neither torch nor transformers.

        Args:
            names: asked for; others may be in the result too.
        """

    def tables(
        self,
        answers: Sequence[Answer],
        references: Sequence[Any],
        readings: Sequence[Reading] = (),
    ) -> list[Table]:
        """What the report shows of the answers, or of the readings, beside the measures. Must load
        neither torch nor transformers.

        Args:
            answers: none where no measure needs them, or a few.
            references: of these.
            readings: none where no measure needs them.
        """
        return []

    def signatures(self) -> Mapping[str, str]:
        """Measure → how exactly it is taken, where there are several ways: by that name figures of
        others compare."""
        return {}

    @abstractmethod
    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """One of B examples as a person reads it."""

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """Something that any model of the task can be asked: role → value, as JSON holds it."""
        return {
            role: ["The"] if each.kind in ("texts", "words") else "The"
            for role, each in cls.fields.items()
            if not each.is_target and not each.is_optional
        }

    @staticmethod
    @abstractmethod
    def answer_text(answer: Answer) -> str:
        """An answer in a line, for people."""
