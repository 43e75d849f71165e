"""`unicode`: texts whose encoding went wrong are repaired, and characters have one form."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import ClassVar

from raymodel.data.cleaning.base import Mend
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.mend import UnicodeSpec

_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"


class Unicode(Mend[UnicodeSpec]):
    """By ftfy, whose changes of what is no fault (quotes, ligatures, wide letters) are off."""

    spec_class: ClassVar[type[StepSpec]] = UnicodeSpec
    mends_pieces = True

    def __init__(self, spec: UnicodeSpec) -> None:
        super().__init__(spec)
        import ftfy

        self._fix = ftfy.fix_text
        self._wrong_in_ascii = re.compile(_CONTROL + ("|&" if spec.html_entities else ""))
        self._form = None if spec.form == "none" else spec.form
        self._config = ftfy.TextFixerConfig(
            # Its "auto" leaves texts with a `<` as they are.
            unescape_html="auto" if spec.html_entities else False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            uncurl_quotes=False,
            normalization=self._form,
            explain=False,
        )

    def mend(self, text: str, counts: Counter[str]) -> str:
        """The text repaired, in its form."""
        if text.isascii() and not self._wrong_in_ascii.search(text):
            return text
        if not self.spec.repair:
            assert self._form is not None, "the spec does something"
            return unicodedata.normalize(self._form, text)
        return self._fix(text, self._config)
