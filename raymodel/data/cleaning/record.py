"""The texts of one record on their way through the steps, with its images and sounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, cached_property

import regex

from raymodel.data.cleaning.media import Picture, Sound
from raymodel.data.cleaning.spec.base import Unit
from raymodel.modality.scripts import UNSPACED_CLASS

_UNSPACED = regex.compile(f"[{UNSPACED_CLASS}]")
_LETTER = regex.compile(r"\p{L}")
# A sign belongs to the word before it, as it does where words are parted by spaces.
_CHARACTER = regex.compile(rf"[{UNSPACED_CLASS}]\p{{P}}*|[^\s{UNSPACED_CLASS}]+")
_TOKEN = regex.compile(r"\w+")
_TERMINAL = regex.compile(r"[\p{STerm}\p{Pf}\"」』]")
_BLANK_LINES = regex.compile(r"\n\s*\n")


def share(count: float, total: float) -> float:
    """Of nothing it is 0. Divided, and not the bound multiplied: 29 of 100 are 0.29 exactly."""
    return count / total if total else 0.0


def cut_words(text: str, unit: Unit) -> list[str]:
    """What white space parts; of `characters` those of scripts without spaces, each by itself with
    the punctuation behind it, and the runs of others."""
    if unit == "words":
        return text.split()
    found: list[str] = _CHARACTER.findall(text)
    return found


@cache
def is_terminal(char: str) -> bool:
    """Whether it ends a sentence or a quotation."""
    return _TERMINAL.match(char) is not None


def is_of_unspaced_script(text: str) -> bool:
    """Whether it has a character of a script that is written without spaces."""
    return _UNSPACED.search(text) is not None


def num_chars(text: str) -> int:
    """Without white space."""
    return len("".join(text.split()))


def repeated_chars_frac(parts: Sequence[str]) -> float:
    """The share of characters that is in lines, or paragraphs, which stood before."""
    repeated = {part: count - 1 for part, count in Counter(parts).items() if count > 1}
    if not repeated:
        return 0.0
    chars = sum(num_chars(part) * count for part, count in repeated.items())
    return share(chars, sum(map(num_chars, parts)))


class Whole:
    """A text that is judged, cut up once for all steps that do."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._words: dict[Unit, list[str]] = {}

    @cached_property
    def lines(self) -> list[str]:
        """Without white space around them, and without blank ones."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines part, in the same way."""
        return [part for part in map(str.strip, _BLANK_LINES.split(self.text)) if part]

    @cached_property
    def is_unspaced(self) -> bool:
        """Whether most of its letters are of scripts that are written without spaces."""
        if self.text.isascii():
            return False
        count = len(_UNSPACED.findall(self.text))
        return count > 0 and 2 * count > len(_LETTER.findall(self.text))

    @cached_property
    def small(self) -> str:
        """Without capitals."""
        return self.text.casefold()

    @cached_property
    def tokens(self) -> list[str]:
        """The runs of letters and digits, without capitals."""
        found: list[str] = _TOKEN.findall(self.small)
        return found

    def words(self, unit: Unit) -> list[str]:
        """See `cut_words`."""
        if unit not in self._words:
            self._words[unit] = cut_words(self.text, unit)
        return self._words[unit]


class Record:
    """The texts of a record, and what steps did to them; its images and sounds, which steps only
    look at."""

    def __init__(
        self,
        texts: Sequence[str],
        images: Sequence[bytes] = (),
        sounds: Sequence[bytes] = (),
        *,
        channels: int = 1,
    ) -> None:
        """Args:
        channels: of `Picture`.
        """
        self.texts = list(texts)
        self.pictures = [Picture(data, channels) for data in images]
        self.sounds = [Sound(data) for data in sounds]
        self.changed: dict[str, Counter[str]] = {}
        """Step → what it changed → how often."""
        self.language: str | None = None
        """In which its texts are, where the step that tells it was there."""
        self._whole: Whole | None = None

    @property
    def whole(self) -> Whole:
        """All texts, as lines beneath each other: what is judged."""
        if self._whole is None:
            self._whole = Whole("\n".join(self.texts))
        return self._whole

    def find_look(self) -> int | None:
        """What its image looks like; None of one of one shade, or where it has none.

        Raises:
            RecordError: it cannot be decoded.
        """
        return self.pictures[0].look if self.pictures else None

    def change(self, step: str, texts: Sequence[str], counts: Counter[str] | None = None) -> None:
        """Puts other texts in the place of these.

        Args:
            counts: what was changed → how often, where a step tells more than that it did.
        """
        if texts == self.texts:
            return
        self.texts, self._whole = list(texts), None
        self.changed.setdefault(step, Counter()).update(counts or {})
