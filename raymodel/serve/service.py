"""What a service is: how the models of one task answer over HTTP."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from raymodel.observe.slow_paths import as_content, slow_paths
from raymodel.serve.capacity import find_rows
from raymodel.serve.filters.chain import NO_FILTERS, Filters
from raymodel.serve.refusal import Refusal, too_many_characters
from raymodel.serve.spec import ServeSpec

if TYPE_CHECKING:
    from fastapi import APIRouter
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Answer, Task

T = TypeVar("T")

# Of one token, of a text that people write. Tokenizers know longer ones, of spaces or dashes alone;
# by the longest of them a text of a million characters would be read to be refused.
MOST_CHARS_BY_TOKEN = 32


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
        # One thread: a tokenizer whose truncation changes must not be read from by another.
        self._reader = ThreadPoolExecutor(1, "reader")
        self.filters: Filters = NO_FILTERS
        """What texts that are asked, and answered, go through."""
        self.reload: Callable[[], PreTrainedModel] = lambda: self.model
        """Gives the model with its weights, also where those of `model` have been let go."""

    @abstractmethod
    def router(self) -> APIRouter:
        """The routes that answer requests."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `/health` tells of this kind: how it runs, how much it does now."""

    def described(self) -> dict[str, dict[str, Any]]:
        """Name of a request or an answer → its fields of which this model takes or tells less than
        others, each as JSON Schema."""
        return {}

    @abstractmethod
    def probe(self) -> None:
        """Runs the model once, on something that any of its kind can be asked."""

    def settle(self) -> None:  # noqa: B027 - most have nothing to choose
        """Chooses what computes the answers, once the model has shown that it answers.

        Raises:
            SpecError: what `serve.engine` asks for cannot be had.
        """

    @property
    def num_rows(self) -> int:
        """Requests, or rows of them, that it answers at the same time."""
        return find_rows(self.spec, self.task.name, self.model.device.type)

    @property
    @abstractmethod
    def is_healthy(self) -> bool:
        """False when it can answer no more and must be restarted."""

    @property
    def needs_model(self) -> bool:
        """Whether it goes on computing with the weights of `model`."""
        return True

    def close(self) -> None:
        """Ends its threads."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    @abstractmethod
    def question(values: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
        """The path and JSON body that ask the model called `name` about the values of its roles."""

    @staticmethod
    @abstractmethod
    def answer(response: dict[str, Any]) -> Answer:
        """The answer in the JSON that `question` brings."""

    async def read(self, reading: Callable[..., T], *given: Any) -> T:
        """Calls what takes time in proportion to a request, such as tokenising or decoding an
        image, beside the event loop, which answers others meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, reading, *given)

    @staticmethod
    def check_chars(num_chars: int, limit_tokens: int, param: str) -> None:
        """Raises Refusal (400) for a text that is too long whatever its tokens are."""
        most = limit_tokens * MOST_CHARS_BY_TOKEN
        if num_chars > most:
            raise too_many_characters(num_chars, most, limit_tokens, param)

    def check_room(self, num_inputs: int, param: str) -> int:
        """How many inputs find a place here; raises Refusal (400) for more in one request."""
        room = self.spec.queue + self.num_rows
        if num_inputs > room:
            raise Refusal(
                400,
                f"{param} has {num_inputs:,} inputs; this server takes at most {room:,} in one "
                "request",
                param=param,
            )
        return room

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
            **({"filters": told} if (told := self.filters.state()) else {}),
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
