"""`words`: records with a word, or an address, of a list."""

from __future__ import annotations

import re
from typing import ClassVar

from raymodel.data.cleaning.base import Judge
from raymodel.data.cleaning.record import Whole
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.choice import WordsSpec
from raymodel.data.cleaning.terms import Terms

# A user's name may stand before the host; a port or a path ends it.
_HOST = re.compile(r"(?://(?:[^\s/@]{1,64}@)?|\b(?=www\.))((?:[\w-]+\.)+[\w-]+)")


class Words(Judge[WordsSpec]):
    """Both lists are looked up, so that long ones cost no more than short ones."""

    spec_class: ClassVar[type[StepSpec]] = WordsSpec

    def __init__(self, spec: WordsSpec) -> None:
        super().__init__(spec)
        self._words = Terms(spec.words)
        self._hosts = frozenset(host.casefold().strip(".") for host in spec.hosts)

    def broken_rule(self, whole: Whole) -> str | None:
        """Words first."""
        if self._words.are_in(whole):
            return "words"
        return "hosts" if self._hosts and self._has_host(whole.small) else None

    def _has_host(self, text: str) -> bool:
        return any(self._is_listed(match[1]) for match in _HOST.finditer(text))

    def _is_listed(self, host: str) -> bool:
        """It, or one that it belongs to."""
        labels = host.split(".")
        return any(".".join(labels[i:]) in self._hosts for i in range(len(labels)))
