"""A new model is first given a share of the requests: how they came out, and what follows of it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Message

# One failure may be a client's odd request; of ten answers two tell more than of a thousand.
_LEAST_FAILED = 2
_MARGIN = 0.02  # of all answers, beyond what the old model fails
_FIRST_ERROR, _OVERLOADED = 500, 503


@dataclass
class Outcomes:
    """Of the requests that one model answered. What clients broke off, or asked wrongly, is no
    failure of the model, and neither is that there was no room."""

    num_answered: int = 0
    num_failed: int = 0

    @property
    def failed_share(self) -> float:
        return self.num_failed / max(1, self.num_answered)

    def since(self, before: Outcomes) -> Outcomes:
        """Those after `before` was copied."""
        return Outcomes(
            self.num_answered - before.num_answered, self.num_failed - before.num_failed
        )


class Outcome:
    """Of one request, by the messages of its response.

    Args:
        begun, counted: the types of the notices that the model began, and that its answer is whole.
    """

    def __init__(self, begun: str, counted: str) -> None:
        self._begun, self._counted = begun, counted
        self._status, self._has_begun, self._is_whole = 0, False, False

    def look(self, messages: list[Message]) -> None:
        """Takes the next messages."""
        for message in messages:
            self._status = message.get("status", self._status)
            self._has_begun |= message["type"] == self._begun
            self._is_whole |= message["type"] == self._counted

    def add_to(self, outcomes: Outcomes) -> None:
        """Counts a response that went to its end."""
        if self._status == _OVERLOADED:
            return
        breaks_off = self._status == 200 and self._has_begun and not self._is_whole
        outcomes.num_answered += 1
        outcomes.num_failed += self._status >= _FIRST_ERROR or not self._status or breaks_off


def is_worse(new: Outcomes, old: Outcomes) -> bool:
    """Whether a new model fails so much more than the one before that it must not take its place.

    Args:
        new, old: of the same time.
    """
    return new.num_failed >= _LEAST_FAILED and new.failed_share > old.failed_share + _MARGIN
