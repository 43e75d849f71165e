"""What a filter is: one that finds by the form of a text, or one that judges by its meaning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from raymodel.serve.filters.spec import FilterSpec

S = TypeVar("S", bound=FilterSpec)


class Match(NamedTuple):
    """Something in a text that a filter is about."""

    start: int
    stop: int
    kind: str
    """For the metrics."""
    placeholder: str
    """What takes its place where it is redacted."""


class Filter(ABC, Generic[S]):
    """A filter, made of its spec once in each process; keeps nothing of a text."""

    spec_class: ClassVar[type[FilterSpec]]

    def __init__(self, spec: S) -> None:
        self.spec = spec

    def state(self) -> dict[str, Any]:
        """What `/health` tells."""
        return {"name": self.spec.name, "side": self.spec.side, "action": self.spec.action}

    def close(self) -> None:
        """Ends its threads."""


class TextFilter(Filter[S]):
    """Finds what it is about, and where."""

    @abstractmethod
    def find(self, text: str) -> list[Match]:
        """From left to right; no two overlap."""

    @abstractmethod
    def settled(self, text: str) -> int:
        """Up to where `find` says the same of a text whatever is written behind it. What stands
        behind that may be the beginning of a match."""


class Judge(Filter[S]):
    """Says of texts whether they may pass."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it finds, for the metrics."""

    @abstractmethod
    async def are_refused(self, texts: Sequence[str]) -> list[bool]:
        """Of each text. Raises Refusal (503) where too many wait for it."""
