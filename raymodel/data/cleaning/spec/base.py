"""What the specs of all cleaning steps share, and that of a user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from raymodel.errors import SpecError
from raymodel.spec.base import Spec
from raymodel.spec.own import own_digest, working_folder
from raymodel.spec.show import show

Unit = Literal["words", "characters"]
"""What is counted as a word."""
Sees = Literal["text", "image", "audio"]
"""What of a record a step looks at."""
UNSPACED = "unspaced"
"""The rule of a text that cannot be cut into words at white space."""
SPEAKS_OF_SPACES = "written without spaces between words, so that it needs `unit: characters`"


MAX_TERMS = 1_000_000
"""Of a list; it lies in the memory of each process that reads."""


class StepSpec(Spec):
    """What the specs of all cleaning steps share."""

    version: ClassVar[int] = 1
    """Raised when a step with the same settings gives other texts, or leaves others out: it is in
    the fingerprint of what was cleaned."""

    sees: ClassVar[Sees] = "text"
    """What it looks at: a job whose records have none is refused with it."""
    lists: ClassVar[Mapping[str, str]] = {}
    """Field that names a file of terms, one a line → field that holds such terms."""

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
        """What tells the step from others in a fingerprint: of a list that it names the terms, not
        the path.

        Raises:
            SpecError: a list cannot be read.
        """
        terms = {name: read_terms(path) for name, path in self._files.items()}
        digests = {name: _digest(each) for name, each in terms.items()}
        return self.identity() | {"version": self.version} | digests

    def with_lists(self) -> Self:
        """The same with the terms of the lists that it names in it, for processes elsewhere.

        Raises:
            SpecError: one cannot be read.
        """
        update: dict[str, Any] = {}
        for name, path in self._files.items():
            terms = self.lists[name]
            update |= {terms: (*getattr(self, terms), *read_terms(path)), name: None}
        return self.model_copy(update=update)

    @property
    def _files(self) -> dict[str, str]:
        return {name: path for name in self.lists if (path := getattr(self, name)) is not None}


def read_terms(path: str) -> tuple[str, ...]:
    """The lines of a file in the job's folder that are not blank.

    Raises:
        SpecError: it cannot be read, or holds no terms or too many.
    """
    file = working_folder() / path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        why = "is not UTF-8" if isinstance(error, ValueError) else f"cannot be read ({error})"
        raise SpecError(
            f"the list {show(path)} {why}; name a text file in {working_folder()}, one term a line"
        ) from error
    terms = tuple(line.strip() for line in lines if line.strip())
    if not 0 < len(terms) <= MAX_TERMS:
        raise SpecError(
            f"the list {show(path)} has {len(terms):,} terms; it must have from 1 to {MAX_TERMS:,}"
        )
    return terms


def _digest(terms: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(terms).encode()).hexdigest()[:16]


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
