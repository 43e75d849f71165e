"""Several classifiers that answer as one: the mean of their probabilities.

Each reads a request in its own way, with its own tokenizer or image size; what they must share are
the roles of a request and the classes of an answer. Source: https://arxiv.org/abs/1612.01474, of
networks that differ in their initial weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.errors import ArtifactError
from raymodel.serve.prediction import PredictionService
from raymodel.serve.service import Service
from raymodel.tasks.base import Answer, Features, Limits
from raymodel.tasks.classes import most_probable

_MEMBERS = "members"
"""The only column of a row: the row of each member."""


class EnsembleService(PredictionService):
    """Answers as its first member does, with the probabilities of all.

    Args:
        members: at least two, loaded; closed with this one.

    Raises:
        ArtifactError: they are no classifiers, or do not have the same classes.
    """

    def __init__(self, members: Sequence[Service]) -> None:
        classifiers = [m for m in members if isinstance(m, PredictionService)]
        if len(classifiers) < len(members) or any(m.task.answers != "label" for m in classifiers):
            tasks = ", ".join(dict.fromkeys(m.task.name for m in members))
            raise ArtifactError(
                f"serve.ensemble is of models that tell one class, and these are for {tasks}; "
                "leave it out"
            )
        first = classifiers[0]
        super().__init__(first.model, first.task, name=first.name, spec=first.spec)
        self._members = classifiers
        self._computed = first._computed  # each was measured when it was loaded
        self.max_input_tokens = min(each.max_input_tokens for each in classifiers)
        for each in classifiers:  # so that a refusal names the same limit, whoever refuses
            each.max_input_tokens = self.max_input_tokens
        self._orders = [self._order(each) for each in classifiers]

    def _order(self, member: PredictionService) -> list[int]:
        """Where each class of ours stands in the answers of a member."""
        lacking = sorted(set(self.labels) - set(member.labels))
        more = sorted(set(member.labels) - set(self.labels))
        if lacking or more or len(member.labels) != len(self.labels):
            raise ArtifactError(
                f"serve.ensemble: a model of it has the classes {', '.join(member.labels)}, and "
                f"the first {', '.join(self.labels)}; models that answer as one have the same. "
                "Take it away, or train it on the same labels"
            )
        return [member.labels.index(label) for label in self.labels]

    def state(self) -> dict[str, Any]:
        return super().state() | {"ensemble": len(self._members)}

    def close(self) -> None:
        super().close()
        for member in self._members:
            member.close()

    def _features(self, values: Mapping[str, Any], param: str, most: int | None = None) -> Features:
        return {_MEMBERS: [each._features(values, param, most) for each in self._members]}

    @staticmethod
    def count_tokens(rows: list[Features]) -> int:
        """As the first reads them: a request is one, however many models there are."""
        return PredictionService.count_tokens([row[_MEMBERS][0] for row in rows])

    def _predict(self, rows: list[Features], limits: Limits | None = None) -> list[Answer]:
        said = [
            member._predict([row[_MEMBERS][index] for row in rows], limits)
            for index, member in enumerate(self._members)
        ]
        return [self._mean([answers[i]["probs"] for answers in said]) for i in range(len(rows))]

    def _mean(self, probs: Sequence[Sequence[float]]) -> Answer:
        ordered = [[p[i] for i in order] for p, order in zip(probs, self._orders, strict=True)]
        mean = [sum(each) / len(ordered) for each in zip(*ordered, strict=True)]
        return {"label": self.labels[most_probable(mean)], "probs": mean}
