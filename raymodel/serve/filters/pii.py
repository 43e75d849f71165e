"""`pii`: what tells who a person is, found as the cleaning step finds it."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from raymodel.data.cleaning.pii import PII, placeholder
from raymodel.serve.filters.base import Match, TextFilter
from raymodel.serve.filters.spec import FilterSpec, PIIFilterSpec

_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Of addresses of any kind, and of what must not stand behind a number.
_IN_ADDRESSES = _LETTERS + _DIGITS + "_%+.@:-"
# Of numbers as they stand on paper, in groups.
_IN_NUMBERS = _DIGITS + " ().-/+\u00a0\u2010\u2011\u2012\u2013"
_NUMBER = re.compile("[0-9(+]")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9 ]*\Z")
_MOST_IBAN = 65  # four characters, thirty with a space before each, and the one behind
_MOST_HELD = 320  # an address has 64 characters, a sign and at most 255 (RFC 5321, section 4.5.3.1)


class PIIFilter(TextFilter[PIIFilterSpec]):
    """All its kinds, as the cleaning step finds them in the same text."""

    spec_class: ClassVar[type[FilterSpec]] = PIIFilterSpec

    def __init__(self, spec: PIIFilterSpec) -> None:
        super().__init__(spec)
        self._step = PII(spec.step)

    def state(self) -> dict[str, Any]:
        return super().state() | {"kinds": list(self.spec.kinds)}

    def find(self, text: str) -> list[Match]:
        return [
            Match(each.start, each.stop, each.kind, placeholder(each.kind))
            for each in self._step.find(text)
        ]

    def settled(self, text: str) -> int:
        """Up to the last word or number, which may go on. What is longer than any that is found,
        such as a table of digits, is settled in its older part."""
        word = len(text.rstrip(_IN_ADDRESSES))
        numbers = len(text.rstrip(_IN_NUMBERS))
        number = _NUMBER.search(text, numbers)
        iban = _IBAN.search(text, max(0, len(text) - _MOST_IBAN))
        begun = [word, *(match.start() for match in (number, iban) if match is not None)]
        return max(min(begun), len(text) - _MOST_HELD)
