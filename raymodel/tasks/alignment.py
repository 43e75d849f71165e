"""From words to the pieces that a model reads, and back: which piece stands for which word.

A tag is predicted at the first piece of its word, as in BERT (arXiv:1810.04805, section 5.3).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raymodel.modality.scripts import is_written_without_spaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_PIECE = -1
# How vocabularies write a space that stands before a word without being joined to it: byte-level
# ones, SentencePiece, characters. Such a piece says nothing of the word.
_SPACES = ("Ġ", "▁", " ")


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Words as a model reads them."""

    input_ids: list[int]
    """With the tokenizer's special tokens."""
    first_piece: list[int]
    """Of each word that was kept, the place of its first piece in `input_ids`; `NO_PIECE` for a
    word of which nothing is left, such as a control character: no tag can be read off it."""

    @property
    def num_words_kept(self) -> int:
        """Words from the start of the text; the others did not fit."""
        return len(self.first_piece)

    @property
    def words_without_piece(self) -> list[int]:
        """Those of the kept words that have none."""
        return [word for word, piece in enumerate(self.first_piece) if piece == NO_PIECE]


def align(words: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Aligned:
    """Words → pieces. A text that is too long ends with the last word that fits whole.

    The pieces are those of the words joined to a text, as the model has met them: with a space
    between two words, if the tokenizer sees one, and without in scripts that write none. White
    space around a word is not part of it, and a word that spells a special token is text.

    Args:
        words: of one text; none of them has to be fit for the tokenizer.
        tokenizer: a fast one.
        max_length: of `input_ids`, special tokens included.

    Raises:
        ValueError: the tokenizer is a slow one, or `max_length` leaves no room beside the special
            tokens.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not tell the word of a "
            "piece; words need a fast one. Save it with a tokenizer.json"
        )
    stripped = [word.strip() for word in words]
    given = list(_with_spaces(stripped)) if _sees_spaces(tokenizer) else stripped
    encoding = tokenizer(given, is_split_into_words=True, split_special_tokens=True, verbose=False)
    ids, word_by_place = list(encoding["input_ids"]), encoding.word_ids()
    start, stop = _places_of_words(word_by_place)
    ending = ids[stop:]
    num_words = len(words)
    if len(ids) > max_length:
        room = max_length - len(ending)
        if room <= start:
            raise ValueError(
                f"max_length {max_length}: the tokenizer adds {start + len(ending)} special "
                "tokens, and words need room beside them; raise it"
            )
        stop = _last_boundary(word_by_place, start, room)
        num_words = word_by_place[stop]
    pieces = ids[:stop]
    first_piece = _first_pieces(pieces, word_by_place[:stop], num_words, _space_ids(tokenizer))
    return Aligned(input_ids=pieces + ending, first_piece=first_piece)


def text_of(words: Sequence[str]) -> str:
    """The words as a person writes them, with spaces where their scripts have some."""
    return "".join(_with_spaces(words))


def _with_spaces(words: Sequence[str]) -> Iterator[str]:
    """Words with the space that parts them from the one before."""
    before = ""
    for word in words:
        if word and before and not any(map(is_written_without_spaces, (before[-1], word[0]))):
            yield " " + word
        else:
            yield word
        before = word or before


@functools.lru_cache(maxsize=8)
def _sees_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words have to come with the space before them, to become what they are in a text.

    So it is for GPT-2's kind of tokenizer, and for those that keep a space as a character. Others
    drop spaces, or put one before whatever they are given.
    """
    options = {"add_special_tokens": False, "verbose": False}
    text = tokenizer("a b", **options)["input_ids"]
    bare = tokenizer(["a", "b"], is_split_into_words=True, **options)["input_ids"]
    spaced = tokenizer(["a", " b"], is_split_into_words=True, **options)["input_ids"]
    return bool(text == spaced != bare)


@functools.lru_cache(maxsize=8)
def _space_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    found = (tokenizer.backend_tokenizer.token_to_id(space) for space in _SPACES)
    return frozenset(token_id for token_id in found if token_id is not None)


def _places_of_words(word_by_place: Sequence[int | None]) -> tuple[int, int]:
    """Where the words' pieces begin and end; special tokens stand around them."""
    places = [place for place, word in enumerate(word_by_place) if word is not None]
    return (places[0], places[-1] + 1) if places else (len(word_by_place),) * 2


def _last_boundary(word_by_place: Sequence[int | None], start: int, room: int) -> int:
    """The last place up to `room` at which a word begins, or the first word's."""
    place = room
    while place > start and word_by_place[place] == word_by_place[place - 1]:
        place -= 1
    return place


def _first_pieces(
    ids: Sequence[int],
    word_by_place: Sequence[int | None],
    num_words: int,
    space_ids: frozenset[int],
) -> list[int]:
    first_piece = [NO_PIECE] * num_words
    for place, word in enumerate(word_by_place):
        if word is None:
            continue
        known = first_piece[word]
        if known == NO_PIECE or ids[known] in space_ids:
            first_piece[word] = place
    return first_piece
