"""Which tokens a masked language model has to guess, drawn anew for a row at every step.

As for BERT (arXiv:1810.04805, section 3.1): of the tokens that are chosen, 80 % are hidden by the
mask, 10 % replaced by others and 10 % left, and all of them are to be guessed. Drawn at every step,
as for RoBERTa (arXiv:1907.11692, section 4.1), and not once when the data is prepared.

Shapes: T tokens of a row, V ids of the vocabulary.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raymodel.chance import Chance
from raymodel.modality.scripts import is_written_without_spaces
from raymodel.tasks.loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

_MASKED = 0.8
_REPLACED = 0.1
_BEFORE = "a"  # any letter: what a token adds to a text is seen after one


def mask_row(
    ids_T: Ids,
    special_T: Flags,
    chance: Chance,
    *,
    mask_id: int,
    random_ids: Ids,
    share: float = 0.15,
    words_T: Ids | None = None,
) -> tuple[Ids, Ids]:
    """Hides tokens of one row.

    The number of those that are chosen is the share of the row, rounded up or down by chance, so
    that it is right on average; but one at least, if any may be chosen. Special tokens draw no
    number, so neither the padding nor the other rows of a batch change what is chosen.

    Args:
        ids_T: the tokens.
        special_T: those that are never chosen: special tokens, padding.
        chance: of this row at this step (`Draw.of_row`).
        mask_id: what hides a token.
        random_ids: what replaces one: `ordinary_ids` of the tokenizer.
        share: of the tokens that may be chosen; with words of the words, which on average is the
            same share of the tokens.
        words_T: the number of each token's word (`word_numbers`). All tokens of a word are chosen
            together, and each is hidden, replaced or left by itself.

    Returns:
        What the model reads (T,), and what it has to guess there (T,): `IGNORED` where nothing.
    """
    inputs_T, labels_T = ids_T.astype(np.int64), np.full(len(ids_T), IGNORED, dtype=np.int64)
    places = np.flatnonzero(~special_T)
    if len(places) == 0:
        return inputs_T, labels_T
    unit_by_place = np.arange(len(places))
    if words_T is not None:
        unit_by_place = np.unique(words_T[places], return_inverse=True)[1]
    is_chosen = _choose(int(unit_by_place.max()) + 1, share, chance)
    chosen = places[is_chosen[unit_by_place]]
    labels_T[chosen] = truth = inputs_T[chosen]
    fate = chance.uniform(len(chosen))
    others = random_ids[chance.integers(len(random_ids), len(chosen))]
    inputs_T[chosen] = np.where(
        fate < _MASKED, mask_id, np.where(fate < _MASKED + _REPLACED, others, truth)
    )
    return inputs_T, labels_T


def _choose(num_units: int, share: float, chance: Chance) -> Flags:
    """Flags on a share of them, at least one. (num_units,)"""
    num_chosen = max(1, int(share * num_units + chance.number()))
    is_chosen = np.zeros(num_units, dtype=np.bool_)
    is_chosen[np.argsort(chance.uniform(num_units), kind="stable")[:num_chosen]] = True
    return is_chosen


def ordinary_ids(tokenizer: PreTrainedTokenizerBase) -> Ids:
    """The ids of a vocabulary that are no special tokens, in order."""
    return np.array(
        sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)),
        dtype=np.int64,
    )


def word_starts(tokenizer: PreTrainedTokenizerBase) -> Flags:
    """Whether the token of an id begins a word wherever it stands. (V,)

    It does unless it goes on with letters or digits where the token before ended: it comes with the
    space before it (`Ġ`, `▁`, or no `##`), is a punctuation mark, or is of a script without spaces,
    where each token is a word. So letters right after a punctuation mark belong to its word, and
    parts of a character to the one before. Added tokens begin a word. What a token is in a text is
    what the tokenizer's decoder makes of it; half a second for a hundred thousand tokens.

    Raises:
        ValueError: no token comes with the space before it, so words cannot be told by their first
            tokens (as in vocabularies that mark the last token of a word).
    """
    decoder = tokenizer.backend_tokenizer.decoder
    vocab = tokenizer.get_vocab()
    starts_V = np.ones(max(vocab.values()) + 1, dtype=np.bool_)
    if decoder is None:  # then tokens are words, joined by spaces
        return starts_V
    tells_words = False
    added = tokenizer.added_tokens_decoder
    for token, token_id in vocab.items():
        if token_id in added:
            continue
        first = decoder.decode([_BEFORE, token])[len(_BEFORE) :][:1]
        is_parted = first.isspace() or is_written_without_spaces(first)
        tells_words = tells_words or is_parted
        starts_V[token_id] = is_parted or not _goes_on(first)
    if not tells_words:
        raise ValueError(
            f"of the {len(vocab)} tokens of this tokenizer none comes with the space before it; "
            "whole words can be masked only where the first token of a word is told by itself. "
            "Mask single tokens"
        )
    return starts_V


def word_numbers(ids_T: Ids, special_T: Flags, starts_V: Flags) -> Ids:
    """The number of each token's word, counted from the start of a row; for `mask_row`. (T,)

    A word begins too after a special token, where a text begins, and each special token is a word.
    """
    begins_T = starts_V[ids_T] | special_T
    begins_T[1:] |= special_T[:-1]
    return np.cumsum(begins_T, dtype=np.int64)


def _goes_on(character: str) -> bool:
    """Whether a character after a letter belongs to its word: a letter, a digit, an accent, or a
    part of a character that is not whole."""
    return character == "\ufffd" or unicodedata.category(character or " ")[0] in "LNM"
