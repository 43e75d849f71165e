"""OpenVINO, and beside it torch for the requests that OpenVINO does not answer as they ask.

The model is loaded in torch when the first such request comes, so a server that never meets one
holds its weights once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel

from raymodel.errors import ClusterError
from raymodel.observe.text import gib_text
from raymodel.serve.answer import Answer
from raymodel.serve.form import Grammars
from raymodel.serve.memory import available_memory_bytes
from raymodel.serve.openvino_runner import OpenVinoRunner
from raymodel.serve.runner import Runner, Tokens
from raymodel.serve.sampling import Sampling
from raymodel.serve.torch_runner import TorchRunner

log = logging.getLogger(__name__)


class BesideRunner(Runner):
    """Both runners as one; an answer is with one of them from its first token to its last.

    Args:
        first: answers what it can.
        load: gives the model, in eval mode and in the dtype that it is served in.
        model_bytes: of its weights.
        grammars: of the forms that answers may be asked to have.
        replicas: that may share this machine's memory.
    """

    name = OpenVinoRunner.name
    mode = OpenVinoRunner.mode
    needs_model = False

    def __init__(
        self,
        first: OpenVinoRunner,
        load: Callable[[], PreTrainedModel],
        model_bytes: int,
        grammars: Grammars,
        replicas: int = 1,
    ) -> None:
        self.first = first
        self._replicas = replicas
        self.num_slots = first.num_slots
        self.context_tokens = first.context_tokens
        self._load, self._model_bytes, self._grammars = load, model_bytes, grammars
        self._second: TorchRunner | None = None
        self._loading = threading.Lock()
        self._runners: dict[int, Runner] = {}  # by the id of each answer that runs

    def is_prepared(self, sampling: Sampling) -> bool:
        return self.first.find_lacking(sampling) is None and self.first.is_prepared(sampling)

    def prepare(self, sampling: Sampling) -> None:
        self._runner_for(sampling).prepare(sampling)

    def fits(self, joining: Sequence[Answer], candidate: Answer) -> bool:
        runner = self._runner_for(candidate.sampling)
        beside = [answer for answer in joining if self._runner_for(answer.sampling) is runner]
        return runner.fits(beside, candidate)

    def join(self, answers: Sequence[Answer]) -> Tokens:
        self._runners |= {id(answer): self._runner_for(answer.sampling) for answer in answers}
        tokens: Tokens = []
        for runner, own in self._by_runner(answers):
            tokens += runner.join(own)
        return tokens

    def step(self) -> Tokens:
        running = set(map(id, self._runners.values()))
        return [made for each in self._both() if id(each) in running for made in each.step()]

    def leave(self, answers: Sequence[Answer]) -> None:
        for runner, own in self._by_runner(answers):
            runner.leave(own)
        for answer in answers:
            self._runners.pop(id(answer), None)

    @property
    def is_alive(self) -> bool:
        return self.first.is_alive

    def facts(self) -> dict[str, Any]:
        beside = {"for": list(self.first.lacking), "loaded": self._second is not None}
        return self.first.facts() | {TorchRunner.name: beside}

    def close(self) -> None:
        self.first.close()

    def _both(self) -> list[Runner]:
        return [self.first] if self._second is None else [self.first, self._second]

    def _by_runner(self, answers: Sequence[Answer]) -> list[tuple[Runner, list[Answer]]]:
        """Those that have joined, with the runner that has them."""
        pairs = [
            (runner, [answer for answer in answers if self._runners.get(id(answer)) is runner])
            for runner in self._both()
        ]
        return [(runner, own) for runner, own in pairs if own]

    def _runner_for(self, sampling: Sampling) -> Runner:
        lacking = self.first.find_lacking(sampling)
        if lacking is None:
            return self.first
        with self._loading:
            if self._second is None:
                self._second = self._build(lacking)
            return self._second

    def _build(self, lacking: str) -> TorchRunner:
        left = available_memory_bytes()
        if left < self._model_bytes:
            raise ClusterError(
                f"the engine {self.name} does not do {lacking} as asked, and the memory that is "
                f"left, {gib_text(left)}, does not hold the model once more in torch "
                f"({gib_text(self._model_bytes)}); free some, or set serve.engine: transformers"
            )
        begun_s = time.monotonic()
        model = self._load()
        second = TorchRunner(
            model,
            batch=self.num_slots,
            context_tokens=self.context_tokens,
            grammars=self._grammars,
            replicas=self._replicas,
        )
        log.warning(
            "%s is not done as asked by %s: the model is loaded in torch too, and answers such "
            "requests at its own speed (%s more memory, loaded in %.1f s)",
            lacking, self.name, gib_text(self._model_bytes), time.monotonic() - begun_s,
        )  # fmt: skip
        return second
