"""What the engine asks of whatever computes the answers: join, step, leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from raymodel.serve.answer import Answer, Scored
from raymodel.serve.sampling import Sampling


class Made(NamedTuple):
    """An answer goes on with a token."""

    answer: Answer
    token: int
    scored: Scored | None = None
    """The same token with its log-probability, where the answer's sampling asks for it."""


Tokens = list[Made]
"""Several of one answer in their order."""


class Runner(ABC):
    """A model that writes several answers at the same time; called by the engine's thread alone.

    It chooses tokens by each answer's `sampling`, and puts what that asks of the prompt into
    `prompt_scores` before the first token. When an answer ends the engine says, for all runners by
    the same rules: it looks at end tokens, stop strings and lengths.
    """

    name: str
    """As `serve.engine` calls it."""
    mode: str
    """How it runs several answers."""
    num_slots: int
    """Answers at the same time."""
    context_tokens: int
    """The most tokens of prompt and answer together."""
    needs_model: bool
    """Whether it computes with the weights of the model in torch."""

    def fits(self, joining: Sequence[Answer], candidate: Answer) -> bool:
        """Whether a prompt may be read together with others that join now."""
        return True

    def is_prepared(self, sampling: Sampling) -> bool:
        """Whether an answer of this kind needs nothing that `prepare` would get ready."""
        return True

    def prepare(self, sampling: Sampling) -> None:  # noqa: B027 - most need nothing
        """Gets ready what an answer of this kind needs, in any thread; it may take seconds.

        Raises:
            ClusterError: it cannot be had.
            FormError: the answer cannot have the form that is asked of it.
        """

    @abstractmethod
    def join(self, answers: Sequence[Answer]) -> Tokens:
        """Takes answers up; returns what is known of them at once."""

    @abstractmethod
    def step(self) -> Tokens:
        """Goes on with all of them."""

    @abstractmethod
    def leave(self, answers: Sequence[Answer]) -> None:
        """Frees what answers hold that have ended."""

    @property
    def is_alive(self) -> bool:
        """False once it can compute no more, whatever it is asked."""
        return True

    def facts(self) -> dict[str, Any]:
        """What `/health` tells of it."""
        return {"engine": self.name, "batching": self.mode}

    @abstractmethod
    def close(self) -> None:
        """Ends it."""
