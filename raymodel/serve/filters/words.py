"""`words`: a list of what is not to be said."""

from __future__ import annotations

from typing import Any, ClassVar

from raymodel.data.cleaning.terms import Terms
from raymodel.serve.filters.base import Match, TextFilter
from raymodel.serve.filters.spec import FilterSpec, WordsFilterSpec

_KIND, _PLACEHOLDER = "word", "<REMOVED>"


class Words(TextFilter[WordsFilterSpec]):
    """Terms as the cleaning step `words` finds them, whose list may be as long."""

    spec_class: ClassVar[type[FilterSpec]] = WordsFilterSpec

    def __init__(self, spec: WordsFilterSpec) -> None:
        super().__init__(spec)
        self._terms = Terms(spec.with_lists().words)

    def state(self) -> dict[str, Any]:
        return super().state() | {"terms": len(self._terms)}

    def find(self, text: str) -> list[Match]:
        return [Match(*span, _KIND, _PLACEHOLDER) for span in self._terms.find(text)]

    def settled(self, text: str) -> int:
        return self._terms.settled(text)
