"""What a chat in the terminal talks to: a model in this process, or one behind a URL."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raymodel.errors import RequestError

Turn = Mapping[str, str]
"""`role` and `content`, as in a request."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How turns are answered; None leaves it to the model's side."""

    temperature: float | None = None
    max_tokens: int | None = None

    def body(self, name: str, turns: Sequence[Turn]) -> dict[str, Any]:
        """The request, the same whoever answers it."""
        said = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        given = {field: value for field, value in said.items() if value is not None}
        return {"model": name, "messages": list(map(dict, turns)), "stream": True, **given}


class ChatModel(Protocol):
    """A model that can be talked to; closed at the end."""

    name: str
    about: str
    """Where it is and what computes it, in a few words."""

    def answer(self, turns: Sequence[Turn]) -> Generator[str, None, None]:
        """The pieces of the answer, as they are written. Closing the generator ends the answer.

        Raises:
            RequestError: this request is refused, and would be again.
            RaymodelError: there is no answer, or not all of it.
        """

    def close(self) -> None:
        """Frees what it holds."""


def no_template(name: str) -> RequestError:
    """What to say of a model that was not made to answer."""
    return RequestError(
        f"{name} has no chat template: it goes on with texts, and has not learnt to answer. "
        "Fine-tune it with the task chat, or give a model that was (such as an Instruct one)"
    )


def not_a_writer(name: str, task: str) -> RequestError:
    """What to say of a model that writes no texts."""
    return RequestError(
        f"{name} is a model for {task}, which answers no conversation; give a language model"
    )
