"""Texts as token ids, each distinct word encoded once.

Most words of a text were met before: of the documentation of Linux nine of ten. Only those that are
new go to the library, whose ids these are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from raymodel.modality.byte_level import Joins, byte_alphabet
from raymodel.modality.text import load_encoder
from raymodel.modality.unspaced import batches
from raymodel.modality.words import END, find_words
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_CHARS = 2**17
"""Characters that are looked at together: some 10 MB of arrays and words. More are not faster."""
_MAX_KNOWN = 2**16
"""Words whose ids are remembered, some 15 MB. Twice as many are not faster."""
_OF_OTHERS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""What a BPE may have, and those of bytes have not."""


class Encoded(NamedTuple):
    """The ids of texts, those of one after those of another."""

    ids: Any
    """(n,) int32"""
    counts: Any
    """Of each text. (texts,) int64"""

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]]) -> Self:
        """From the ids of each."""
        ids = [np.asarray(each, dtype=np.int32) for each in texts]
        counts = np.array([len(each) for each in ids], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *ids]), counts)


class WordEncoder:
    """Gives the ids that the library gives, without special tokens."""

    _numbers: dict[str, int]
    """Of the words that are known."""
    _ids: Any
    """Of all of them, one after the other."""
    _bounds: Any
    """Where those of each begin, and where the last ends."""

    def __init__(self, encoder: Tokenizer) -> None:
        """With what `load_encoder` gives."""
        self.encoder = encoder
        whole = json.loads(encoder.to_str())
        self._joins = Joins(whole["model"]["vocab"]) if _is_known(whole) else None
        self._of_words = _without_cuts(encoder)
        self._forget()

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The same for any order and company of the texts."""
        parts = [self._batch(batch, self._joins) for batch in batches(texts, _BATCH_CHARS)]
        return Encoded(
            np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.counts for part in parts)]),
        )

    def _batch(self, texts: Sequence[str], joins: Joins | None) -> Encoded:
        words = None if joins is None else find_words(texts, joins)
        if words is None:
            encoded = self.encoder.encode_batch_fast([*texts], add_special_tokens=False)
            return Encoded.of([each.ids for each in encoded])
        self._learn(words)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        starts, counts = self._bounds[numbers], np.diff(self._bounds)[numbers]
        ends = np.cumsum(counts)
        places = np.repeat(starts - ends + counts, counts) + np.arange(ends[-1])
        return Encoded(self._ids[places], np.diff(ends[numbers == 0], prepend=0))

    def _learn(self, words: Sequence[str]) -> None:
        """Encodes those that are not known, or all where they are too many to remember."""
        distinct = dict.fromkeys(words)
        new = [word for word in distinct if word not in self._numbers]
        if len(self._numbers) + len(new) > _MAX_KNOWN:
            self._forget()
            new = [word for word in distinct if word != END]
        if not new:
            return
        encoded = self._of_words.encode(new, is_pretokenized=True, add_special_tokens=False)
        owners = np.array(encoded.word_ids, dtype=np.int64)
        ends = np.cumsum(np.bincount(owners, minlength=len(new))) + len(self._ids)
        first = len(self._numbers)
        self._numbers.update(zip(new, range(first, first + len(new)), strict=True))
        self._ids = np.concatenate([self._ids, np.array(encoded.ids, dtype=np.int32)])
        self._bounds = np.concatenate([self._bounds, ends])

    def _forget(self) -> None:
        self._numbers = {END: 0}  # a word without ids
        self._ids = np.empty(0, np.int32)
        self._bounds = np.zeros(2, np.int64)


@functools.lru_cache(maxsize=2)
def load_word_encoder(place: Location) -> WordEncoder:
    """The one of a dataset's processor; it remembers words for as long as the process lasts."""
    return WordEncoder(load_encoder(place))


def _is_known(whole: Mapping[str, Any]) -> bool:
    """Whether a tokenizer, given as its file, cuts texts as `find_words` does, and makes of words
    what `Joins` knows. For all others the library does everything."""
    cuts, model = whole["pre_tokenizer"] or {}, whole["model"]
    return (
        (cuts.get("type"), cuts.get("use_regex", True)) == ("ByteLevel", True)
        and not cuts["add_prefix_space"]
        and whole["normalizer"] is None
        # Of what was added the library looks for what is not special in a text.
        and all(token["special"] for token in whole["added_tokens"])
        and model["type"] == "BPE"
        and not any(model.get(name) for name in _OF_OTHERS)
        and byte_alphabet().keys() <= model["vocab"].keys()
    )


def _without_cuts(encoder: Tokenizer) -> Tokenizer:
    """The same for texts that are words already."""
    from tokenizers import Tokenizer, pre_tokenizers

    of_words = Tokenizer.from_str(encoder.to_str())
    of_words.encode_special_tokens = encoder.encode_special_tokens
    of_words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return of_words
