"""What the specs of all cleaning steps share, and that of a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from raymodel.spec.base import Spec
from raymodel.spec.own import own_digest

Unit = Literal["words", "characters"]
"""What is counted as a word."""
UNSPACED = "unspaced"
"""The rule of a text that cannot be cut into words at white space."""
SPEAKS_OF_SPACES = "written without spaces between words, so that it needs `unit: characters`"


class StepSpec(Spec):
    """What the specs of all cleaning steps share."""

    version: ClassVar[int] = 1
    """Raised when a step with the same settings gives other texts, or leaves others out: it is in
    the fingerprint of what was cleaned."""

    name: str
    """Which step."""

    @property
    def rules(self) -> Mapping[str, str]:
        """Rule → what is said of a record that breaks it and is left out."""
        return {}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Rule → the reason for which a record that breaks it is left out."""
        return {rule: f"{self.name}: {words}" for rule, words in self.rules.items()}

    def mark(self) -> Any:
        """What tells the step from others in a fingerprint."""
        return self.identity() | {"version": self.version}


class OwnStepSpec(StepSpec):
    """A function of the user's own."""

    name: str
    """Where it is, `module.path:Name`."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """It has one way to leave a record out: to give nothing."""
        return {"dropped": f"dropped by {self.name}"}

    def mark(self) -> Any:
        """With the text of its module: a step that changed gives other documents."""
        return [self.name, own_digest(self.name)]


def percent(share: float) -> str:
    """A bound as reasons have it."""
    return f"{100 * share:g} %"
