"""Steps that change texts and leave none out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raymodel.data.cleaning.spec.base import StepSpec
from raymodel.spec.base import DISTINCT, Many

PIIKind = Literal["email", "phone", "card", "iban", "ip", "cn_id", "cn_mobile"]


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


class PIISpec(StepSpec):
    """Puts a placeholder, such as `<EMAIL>`, in the place of what tells who a person is, and counts
    each kind. What is found is what can be told by its form: names and addresses of people are
    not."""

    name: Literal["pii"] = "pii"
    """Which step."""
    kinds: Annotated[Many[PIIKind], DISTINCT] = Field(
        default=("email", "phone", "card", "iban", "ip", "cn_id", "cn_mobile"), min_length=1
    )
    """What is looked for. `email`: addresses (RFC 5321). `phone`: numbers that exist, written with
    `+` and the country, and those of `regions`. `card`: numbers of payment cards (ISO/IEC 7812)
    whose check digit is right. `iban`: accounts (ISO 13616), by country and check digits. `ip`:
    public addresses of version 4 and 6; those of private networks, of one's own machine and of
    documentation say nothing of a person, and after the word version four numbers are none.
    `cn_id`: numbers of Chinese identity cards (GB 11643), by birthday and check digit. `cn_mobile`:
    Chinese mobile numbers."""
    regions: Annotated[Many[Annotated[str, Field(pattern="^[A-Z]{2}$")]], DISTINCT] = Field(
        default=(), max_length=20
    )
    """Countries, in two letters (ISO 3166) such as `US`, whose telephone numbers are also found as
    they are written there, without `+`. Each makes more numbers of other kinds look like one."""

    @model_validator(mode="after")
    def _looks_for_phones(self) -> PIISpec:
        if self.regions and "phone" not in self.kinds:
            raise ValueError("regions are those of `phone`, which `kinds` lacks; drop one of both")
        return self
