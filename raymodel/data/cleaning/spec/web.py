"""Steps made for pages of the web: C4's and FineWeb's rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from raymodel.data.cleaning.spec.base import (
    MAX_TERMS,
    SPEAKS_OF_SPACES,
    UNSPACED,
    StepSpec,
    Unit,
    percent,
)
from raymodel.spec.base import Many, Text
from raymodel.spec.quantity import Fraction

POLICIES = (
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies"),
    "use cookies",
)
"""Of a line that tells of cookies and the like: arXiv:1910.10683, section 2.2, in small letters."""


class C4Spec(StepSpec):
    """Takes lines that are no sentences out of pages, and leaves pages out, by the rules of C4
    (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", arXiv:1910.10683, section 2.2), whose bounds are the defaults. Of several texts of
    a record each loses lines, and all of them together are judged."""

    lists: ClassVar[Mapping[str, str]] = {"bad_words_file": "bad_words"}

    name: Literal["c4"] = "c4"
    """Which step."""
    unit: Unit = "words"
    """What the words of a line are, as with `gopher`."""
    terminal_lines: bool = True
    """Lines that do not end in a terminal mark go: whatever Unicode knows as the end of a sentence
    (`.`, `!`, `?`, `。` and others), or the end of a quotation. So do blank lines."""
    min_line_words: int = Field(default=5, ge=0, le=1000)
    """Lines of fewer words go; 0 keeps all."""
    javascript_lines: bool = True
    """Lines with the word JavaScript go: they ask to switch it on."""
    policy_lines: bool = True
    """Lines that speak of terms of use, privacy policies or cookies go."""
    min_sentences: int = Field(default=3, ge=0, le=1000)
    """Pages with fewer sentences, of the lines that are left, are left out. A sentence ends where a
    terminal mark stands before white space, so that abbreviations make some."""
    lorem_ipsum: bool = True
    """Pages with these two words are left out: they are place holders."""
    curly_brackets: bool = True
    """Pages with a `{` are left out: they hold code."""
    bad_words: Many[Text] = Field(default=(), max_length=MAX_TERMS)
    """Pages with one of these words or phrases are left out; capitals do not matter. The paper
    takes the "List of Dirty, Naughty, Obscene or Otherwise Bad Words", which does not come with
    raymodel."""
    bad_words_file: Text | None = None
    """A text file in the job's folder with more of them, one a line."""

    @property
    def rules(self) -> Mapping[str, str]:
        return {
            UNSPACED: SPEAKS_OF_SPACES,
            "lorem_ipsum": "lorem ipsum",
            "curly_brackets": "a curly bracket",
            "bad_words": "a bad word",
            "no_lines": "no line is left",
            "min_sentences": f"fewer than {self.min_sentences} sentences",
        }


class FineWebSpec(StepSpec):
    """Leaves out lists, menus and what is put together of pieces, by the three rules that FineWeb
    adds to those of others (Penedo et al. 2024, "The FineWeb Datasets", arXiv:2406.17557, section
    3.6), whose bounds are the defaults. Blank lines are nothing, and white space is no
    character."""

    name: Literal["fineweb"] = "fineweb"
    """Which step."""
    min_terminal_lines_frac: Fraction | None = 0.12
    """Texts of which this share of the lines or fewer end in a terminal mark, see `c4`, are left
    out; null leaves none out."""
    max_repeated_line_chars_frac: Fraction | None = 0.1
    """Texts of which this share of the characters or more is in lines that stood before are left
    out; null leaves none out."""
    max_short_lines_frac: Fraction | None = 0.67
    """Texts of which this share of the lines or more are short are left out; null leaves none
    out."""
    short_line_chars: int = Field(default=30, ge=1, le=10_000)
    """A line of fewer characters is short."""

    @property
    def rules(self) -> Mapping[str, str]:
        ends, short = self.min_terminal_lines_frac or 0, self.max_short_lines_frac or 0
        repeated, few = self.max_repeated_line_chars_frac or 0, self.short_line_chars
        return {
            "terminal_lines": f"{percent(ends)} of lines or fewer end in a terminal mark",
            "short_lines": f"{percent(short)} of lines or more are shorter than {few} characters",
            "repeated_line_chars": f"{percent(repeated)} of characters or more in repeated lines",
        }
