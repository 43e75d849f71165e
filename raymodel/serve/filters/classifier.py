"""`classifier`: a model that was trained to tell what is not to be said."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar

from raymodel.serve.filters.base import Judge
from raymodel.serve.filters.check import check_label, role_of
from raymodel.serve.filters.spec import ClassifierFilterSpec, FilterSpec
from raymodel.serve.prediction import PredictionService
from raymodel.serve.service import Service
from raymodel.tasks.base import Features

_MOST_REMEMBERED = 4096
"""Texts whose verdict is kept, by a digest: a chat sends its old turns again with each new one."""


class Classifier(Judge[ClassifierFilterSpec]):
    """A served classifier of texts.

    Args:
        service: of the model; closed with this one.

    Raises:
        ArtifactError: it does not tell the label of a text.
    """

    spec_class: ClassVar[type[FilterSpec]] = ClassifierFilterSpec

    def __init__(self, spec: ClassifierFilterSpec, service: Service) -> None:
        super().__init__(spec)
        self._role = role_of(spec, service.task.name)
        assert isinstance(service, PredictionService), "the role of its task says so"
        check_label(spec, service.labels)
        self._service = service
        self._label = service.labels.index(spec.label)
        self._verdicts: OrderedDict[bytes, bool] = OrderedDict()

    @property
    def kind(self) -> str:
        return self.spec.label

    def state(self) -> dict[str, Any]:
        spec, told = self.spec, self._service.health()
        computed = {name: told[name] for name in ("dtype", "device")}
        known = {"label": spec.label, "at_least": spec.at_least, "unit": spec.unit}
        return super().state() | known | computed

    def close(self) -> None:
        self._service.close()

    async def are_refused(self, texts: Sequence[str]) -> list[bool]:
        keys = [hashlib.sha256(text.encode(errors="replace")).digest() for text in texts]
        new = {key: t for key, t in zip(keys, texts, strict=True) if key not in self._verdicts}
        known = {key: self._verdicts[key] for key in keys if key not in new}
        known |= zip(new, await self._judge(list(new.values())), strict=True)
        for key, verdict in known.items():
            self._verdicts[key] = verdict
            self._verdicts.move_to_end(key)
        while len(self._verdicts) > _MOST_REMEMBERED:
            self._verdicts.popitem(last=False)
        return [known[key] for key in keys]

    async def _judge(self, texts: Sequence[str]) -> list[bool]:
        """One that is longer than the model reads is judged in parts, and is what one of them
        is."""
        rows = [await self._service.read(self._rows, text) for text in texts]
        flat = [row for each in rows for row in each]
        room = self._service.num_rows
        answers = []
        for first in range(0, len(flat), room):  # so that a long text leaves others a place
            answers += await self._service.answers(flat[first : first + room], "filter")
        is_said = [each["probs"][self._label] >= self.spec.at_least for each in answers]
        ends = list(accumulate(map(len, rows)))
        return [any(is_said[end - len(each) : end]) for each, end in zip(rows, ends, strict=True)]

    def _rows(self, text: str) -> list[Features]:
        """The text in parts that the model can read whole; blank ones are none."""
        if not text.strip():
            return []
        row, num_tokens = self._service.measured({self._role: text})
        if num_tokens <= self._service.max_input_tokens:
            return [row] if num_tokens else []
        if len(text) == 1:  # more tokens than the model reads; no model has so few
            return []
        middle = len(text) // 2
        cut = text.rfind(" ", 1, middle) + 1 or middle
        return [*self._rows(text[:cut]), *self._rows(text[cut:])]
