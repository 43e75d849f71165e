"""What a service is: how the models of one task answer over HTTP."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from raymodel.observe.slow_paths import as_content, slow_paths
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ServeSpec

if TYPE_CHECKING:
    from fastapi import APIRouter
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Answer, Task


class Service(ABC):
    """One file a service; `service_of` in load.py says which task has which.

    Args:
        model: on its device, in the dtype it is served in.
        task: what it does, with the processor of its folder.
        name: what clients call the model.
        spec: limits.
    """

    kind: ClassVar[str]
    """`generation` or `prediction`; the page shows the form of that kind."""

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        *,
        name: str,
        spec: ServeSpec,
    ) -> None:
        self.model = model
        self.task = task
        self.name = name
        self.spec = spec

    @abstractmethod
    def router(self) -> APIRouter:
        """The routes that answer requests."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `/health` tells of this kind: how it runs, how much it does now."""

    @property
    @abstractmethod
    def is_healthy(self) -> bool:
        """False when it can answer no more and must be restarted."""

    @abstractmethod
    def close(self) -> None:
        """Ends its threads."""

    @staticmethod
    @abstractmethod
    def question(values: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
        """The path and JSON body that ask the model called `name` about the values of its roles."""

    @staticmethod
    @abstractmethod
    def answer(response: dict[str, Any]) -> Answer:
        """The answer in the JSON that `question` brings."""

    def health(self) -> dict[str, Any]:
        """What `/health` tells."""
        return {
            "status": "ok" if self.is_healthy else "failing",
            "model": self.name,
            "kind": self.kind,
            "task": self.task.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "slow_paths": as_content(slow_paths()),
            **self.state(),
        }

    def check_model(self, asked: str) -> None:
        """Raises Refusal (404) for another model's name."""
        if asked != self.name:
            raise Refusal(
                404,
                f"there is no model {ascii(asked)[:80]}; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )
