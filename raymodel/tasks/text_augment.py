"""Texts changed by chance: words left out, exchanged, or written with a slip.

A row has the tokens of a text and no text, so words are runs of tokens, as whole-word masking has
them; special tokens stay where they are. Every number comes from `Chance`: the same one, the same
tokens.

Shapes: T tokens of a row before, t after.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raymodel.chance import Chance
from raymodel.modality.spec import TextAugmentSpec
from raymodel.tasks.masking import word_numbers, word_starts
from raymodel.tasks.spec.base import AnyChangedText, AnyTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MULTIPLE = 8  # to which rows are filled up, see `pad_right`
_KEPT_WORDS = 2**14  # whose spelling a process remembers


class Changed(NamedTuple):
    """A row after changes."""

    ids: list[int]
    """(t,)"""
    origins: list[int]
    """Of each, a token of the row before that stood in the same text: what goes along with tokens
    is taken there. (t,)"""


class Word(NamedTuple):
    """Tokens that make a word, and where in the row the first of them stood."""

    ids: tuple[int, ...]
    origin: int


class WordChanger:
    """Changes rows of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, spec: TextAugmentSpec) -> None:
        """Raises ValueError when the tokens do not tell where words begin."""
        self._spec, self._tokenizer = spec, tokenizer
        self._starts_V = word_starts(tokenizer)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._special_ids = sorted(special)
        self._spelled = functools.lru_cache(maxsize=_KEPT_WORDS)(self._find_spelling)

    def change(self, ids_T: Any, chance: Chance) -> Changed:
        """The tokens of a row, each text in it changed by itself; one word of each stays at least.

        Args:
            chance: of this row at this step (`Draw.of_row`).
        """
        ids_T = np.asarray(ids_T, dtype=np.int64)
        special_T = np.isin(ids_T, self._special_ids)
        numbers_T = word_numbers(ids_T, special_T, self._starts_V)
        words = [Word(tuple(ids_T[start:stop].tolist()), start) for start, stop in _runs(numbers_T)]
        runs = list[list[Word]]()
        for word in words:
            is_special = bool(special_T[word.origin])
            if is_special or not runs or special_T[runs[-1][-1].origin]:
                runs.append([word])
            else:
                runs[-1].append(word)
        changed = [
            run if special_T[run[0].origin] else self._reordered(run, chance) for run in runs
        ]
        most = -(-len(ids_T) // _MULTIPLE) * _MULTIPLE
        made = self._misspelled([word for run in changed for word in run], special_T, most, chance)
        return Changed(
            [token for word in made for token in word.ids],
            [word.origin for word in made for _ in word.ids],
        )

    def _reordered(self, words: list[Word], chance: Chance) -> list[Word]:
        """Words of one text, without some and with some exchanged. The first one is not exchanged:
        many vocabularies write it without the space that others come with."""
        if self._spec.drop:
            numbers = chance.uniform(len(words))
            kept = numbers >= self._spec.drop
            kept[int(numbers.argmax())] = True
            words = [word for word, stays in zip(words, kept, strict=True) if stays]
        if self._spec.swap:
            words, place = list(words), 1
            swaps = chance.uniform(len(words)) < self._spec.swap
            while place + 1 < len(words):
                if swaps[place]:
                    words[place : place + 2] = words[place + 1], words[place]
                    place += 1
                place += 1
        return words

    def _misspelled(
        self, words: list[Word], special_T: Any, most: int, chance: Chance
    ) -> list[Word]:
        """Some words with a slip, in an order by chance, so that where there is no room for all
        the first ones are not preferred.

        Args:
            most: tokens that the row may have.
        """
        if not self._spec.noise:
            return words
        words, total = list(words), sum(len(word.ids) for word in words)
        numbers, order = chance.uniform(len(words)), chance.uniform(len(words))
        for place in np.argsort(order, kind="stable").tolist():
            word = words[place]
            if numbers[place] >= self._spec.noise or special_T[word.origin]:
                continue
            ids = self._with_slip(word.ids, chance)
            if ids and total + len(ids) - len(word.ids) <= most:
                total += len(ids) - len(word.ids)
                words[place] = Word(ids, word.origin)
        return words

    def _with_slip(self, ids: tuple[int, ...], chance: Chance) -> tuple[int, ...]:
        kind, where = chance.number(), chance.number()
        text = self._spelled(ids)
        if text is None:
            return ids
        return self._ids_of(misspelled(text, kind, where))

    def _find_spelling(self, ids: tuple[int, ...]) -> str | None:
        """A word as text; None where it cannot be told, as of parts of a character."""
        text = str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
        return text if self._ids_of(text) == ids else None

    def _ids_of(self, text: str) -> tuple[int, ...]:
        encoder = self._tokenizer.backend_tokenizer
        return tuple(encoder.encode(text, add_special_tokens=False).ids)


def changer_of(spec: AnyTask | None, processor: Any) -> WordChanger | None:
    """What changes the texts of a task in training; None where nothing is to be changed.

    Raises:
        ValueError: its tokens do not tell where words begin.
    """
    if not isinstance(spec, AnyChangedText) or not spec.augment.changes_words:
        return None
    try:
        return WordChanger(processor.tokenizer, spec.augment)
    except ValueError as error:
        raise ValueError(
            "augment changes whole words, and of the tokens of this tokenizer none comes with the "
            "space before it, so that words cannot be told by their first tokens; leave it out"
        ) from error


def misspelled(text: str, kind: float, where: float) -> str:
    """A word with one slip at one of its letters: two neighbours exchanged, or one left out, or
    written twice (Belinkov and Bisk 2018, arXiv:1711.02173, section 3). Numbers stay, and of a
    single letter there is nothing to exchange or leave out.

    Args:
        kind: which of the three, from 0 to 1.
        where: at which letter, from 0 to 1.
    """
    letters = [place for place, character in enumerate(text) if character.isalpha()]
    if not letters:
        return text
    if len(letters) == 1:
        place = letters[0]
        return text[: place + 1] + text[place:]
    index = int(where * len(letters))
    place = letters[index]
    if kind < 1 / 3:
        other = index + 1 if index + 1 < len(letters) else index - 1
        first, second = sorted((place, letters[other]))
        between = text[first + 1 : second]
        return text[:first] + text[second] + between + text[first] + text[second + 1 :]
    if kind < 2 / 3:
        return text[:place] + text[place + 1 :]
    return text[: place + 1] + text[place:]


def _runs(numbers_T: Any) -> list[tuple[int, int]]:
    """Where each run of equal numbers begins and ends."""
    starts = np.flatnonzero(np.diff(numbers_T, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(numbers_T)], strict=True))
