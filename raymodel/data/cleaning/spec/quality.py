"""Steps that judge a record by the statistics of its text: Gopher's of quality and repetition.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
arXiv:2112.11446, appendix A.1.1 and its table A1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from raymodel.data.cleaning.spec.base import SPEAKS_OF_SPACES, UNSPACED, StepSpec, Unit, percent
from raymodel.spec.base import Many, Text
from raymodel.spec.quantity import Count, Fraction

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Arxiv:2112.11446, A.1.1: at least two of these words are in every English text."""
MEAN_WORD_CHARS = (3.0, 10.0)
"""The same: the mean length of the words of an English text is between these."""
MAX_WORDS = 10**9
TOP_NGRAMS = (2, 3, 4)
"""Table A1 has a bound for the most frequent sequence of so many words,"""
REPEATED_NGRAMS = (5, 6, 7, 8, 9, 10)
"""and one for all repeated sequences of so many."""


class GopherSpec(StepSpec):
    """Leaves out what does not look like prose, by Gopher's rules of quality (arXiv:2112.11446,
    appendix A.1.1), whose bounds are the defaults. They were found for English web pages."""

    name: Literal["gopher"] = "gopher"
    """Which step."""
    unit: Unit = "words"
    """`words` are parted by white space; what is written without is left out and says so. With
    `characters` each character of a script without spaces (Chinese, Japanese, Thai, Lao, Khmer,
    Burmese, Tibetan) is a word, and so is each run of others between two of them."""
    min_words: Count = Field(default=50, le=MAX_WORDS)
    """Fewer are left out."""
    max_words: Count = Field(default=100_000, ge=1, le=MAX_WORDS)
    """More are left out."""
    min_mean_word_chars: float | None = Field(default=None, ge=0, le=1000)
    """A mean word of fewer characters is left out. By default 3 of words; of characters none."""
    max_mean_word_chars: float | None = Field(default=None, gt=0, le=1000)
    """A mean word of more characters is left out. By default 10 of words; of characters none."""
    max_symbols_by_word: float = Field(default=0.1, ge=0, le=1000)
    """More `#`, or more ellipses (`…`, `...`), than this by each word are left out."""
    max_bullet_lines_frac: Fraction = 0.9
    """More lines that begin with a bullet are left out; 1 leaves none out."""
    max_ellipsis_lines_frac: Fraction = 0.3
    """More lines that end with an ellipsis are left out; 1 leaves none out."""
    min_alphabetic_frac: Fraction = 0.8
    """Fewer words with a letter in them are left out; 0 leaves none out."""
    min_stop_words: int = Field(default=2, ge=0, le=1000)
    """Texts with fewer different ones of `stop_words` are left out; 0 leaves none out."""
    stop_words: Many[Text] | None = Field(default=None, max_length=1000)
    """Words that every text has; capitals do not matter. By default eight of English, of characters
    none: texts in another language need their own."""

    @property
    def common(self) -> tuple[str, ...]:
        """The stop words that are looked for."""
        if self.stop_words is not None:
            return self.stop_words
        return STOP_WORDS if self.unit == "words" else ()

    @property
    def mean_word_chars(self) -> tuple[float, float]:
        """Between which the mean length of a word must be."""
        least, most = MEAN_WORD_CHARS if self.unit == "words" else (0.0, float("inf"))
        low, high = self.min_mean_word_chars, self.max_mean_word_chars
        return (least if low is None else low, most if high is None else high)

    @property
    def rules(self) -> Mapping[str, str]:
        low, high = self.mean_word_chars
        symbols = f"{self.max_symbols_by_word:g}"
        bullets, ellipses = self.max_bullet_lines_frac, self.max_ellipsis_lines_frac
        return {
            UNSPACED: SPEAKS_OF_SPACES,
            "min_words": f"fewer than {self.min_words:,} {self.unit}",
            "max_words": f"more than {self.max_words:,} {self.unit}",
            "min_mean_word_chars": f"mean word of fewer than {low:g} characters",
            "max_mean_word_chars": f"mean word of more than {high:g} characters",
            "hashes": f"more than {symbols} hash signs by the word",
            "ellipses": f"more than {symbols} ellipses by the word",
            "bullet_lines": f"more than {percent(bullets)} of lines begin with a bullet",
            "ellipsis_lines": f"more than {percent(ellipses)} of lines end with an ellipsis",
            "alphabetic": f"fewer than {percent(self.min_alphabetic_frac)} of words have a letter",
            "stop_words": f"fewer than {self.min_stop_words} stop words",
        }

    @model_validator(mode="after")
    def _can_be_met(self) -> GopherSpec:
        if self.min_words > self.max_words:
            raise ValueError(
                f"min_words is {self.min_words:,} and max_words {self.max_words:,}, so that no "
                "document is kept; min_words must not exceed max_words"
            )
        low, high = self.mean_word_chars
        if low > high:
            raise ValueError(
                f"the mean word must have from {low:g} to {high:g} characters, which no document "
                "has; min_mean_word_chars must not exceed max_mean_word_chars"
            )
        if self.common and self.min_stop_words > len(set(self.common)):
            raise ValueError(
                f"min_stop_words is {self.min_stop_words}, and there are {len(set(self.common))} "
                "stop words; ask for no more"
            )
        return self


class RepetitionSpec(StepSpec):
    """Leaves out what repeats itself, by Gopher's rules (arXiv:2112.11446, table A1), whose bounds
    are the defaults. A repeated line, paragraph or sequence is one that stood in the text before;
    blank lines are nothing, and white space is no character. What lies in several repeated
    sequences is counted once."""

    name: Literal["repetition"] = "repetition"
    """Which step."""
    unit: Unit = "words"
    """What sequences are of, as with `gopher`."""
    max_lines_frac: Fraction = 0.3
    """More lines that are repeated are left out; 1 leaves none out, as with all bounds here."""
    max_paragraphs_frac: Fraction = 0.3
    """The same of paragraphs, which blank lines part."""
    max_line_chars_frac: Fraction = 0.2
    """More characters in repeated lines are left out."""
    max_paragraph_chars_frac: Fraction = 0.2
    """The same of paragraphs."""
    max_top_chars_frac: Many[Fraction] = Field(
        default=(0.2, 0.18, 0.16), min_length=len(TOP_NGRAMS), max_length=len(TOP_NGRAMS)
    )
    """More characters in the most frequent sequence of 2, 3 and 4 words, where it stands more than
    once, are left out."""
    max_repeated_chars_frac: Many[Fraction] = Field(
        default=(0.15, 0.14, 0.13, 0.12, 0.11, 0.1),
        min_length=len(REPEATED_NGRAMS),
        max_length=len(REPEATED_NGRAMS),
    )
    """More characters in repeated sequences of 5, 6, 7, 8, 9 and 10 words are left out."""

    @property
    def rules(self) -> Mapping[str, str]:
        top = zip(TOP_NGRAMS, self.max_top_chars_frac, strict=True)
        repeated = zip(REPEATED_NGRAMS, self.max_repeated_chars_frac, strict=True)
        line_chars, paragraph_chars = self.max_line_chars_frac, self.max_paragraph_chars_frac
        return {
            UNSPACED: SPEAKS_OF_SPACES,
            "lines": f"more than {percent(self.max_lines_frac)} of lines repeated",
            "paragraphs": f"more than {percent(self.max_paragraphs_frac)} of paragraphs repeated",
            "line_chars": f"more than {percent(line_chars)} of characters in repeated lines",
            "paragraph_chars": f"more than {percent(paragraph_chars)} of characters in repeated "
            "paragraphs",
            **{
                f"top_{n}": f"more than {percent(most)} of characters in one sequence of {n} "
                f"{self.unit}"
                for n, most in top
            },
            **{
                f"repeated_{n}": f"more than {percent(most)} of characters in repeated sequences "
                f"of {n} {self.unit}"
                for n, most in repeated
            },
        }
