"""Steps that change texts and leave none out."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from raymodel.data.cleaning.spec.base import StepSpec


class UnicodeSpec(StepSpec):
    """Repairs what went wrong with the encoding of a text, with ftfy, and gives characters that can
    be written in several ways one form."""

    name: Literal["unicode"] = "unicode"
    """Which step."""
    repair: bool = True
    """UTF-8 that was read as another encoding (`schÃ¶n`, `â€œ`) is read again; control characters
    and the colours of terminals go; what ends a line becomes a line end. Quotes, ligatures and the
    wide letters of Chinese and Japanese stay as they were written, which differs from ftfy's own
    defaults."""
    html_entities: bool = False
    """`repair` also reads `&eacute;` as `é`, in texts without `<`. Off by default, since texts on
    HTML and code mean what they say."""
    form: Literal["NFC", "NFKC", "NFD", "NFKD", "none"] = "NFC"
    """The normalisation form of Unicode (its annex 15). `NFC` writes each character as one where it
    can; `NFKC` also makes ² to 2 and ﬁ to fi, which loses what was meant; `none` changes
    nothing."""

    @model_validator(mode="after")
    def _does_something(self) -> UnicodeSpec:
        if not self.repair and self.html_entities:
            raise ValueError("html_entities is a part of `repair`, which is false; set it to true")
        if not self.repair and self.form == "none":
            raise ValueError(
                "repair is false and form is none: that changes no text; drop the step"
            )
        return self
