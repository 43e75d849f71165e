"""The step that trains a tokenizer, on a sample of all partitions alike."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from raymodel.data.record import digest_of
from raymodel.data.spec import TokenizerSpec
from raymodel.data.step import OfResults, item_file
from raymodel.modality.characters import as_bert, learn_characters
from raymodel.modality.subwords import as_unigram, learn_unigram, learn_wordpiece
from raymodel.modality.text import TextProcessor, learn_bytes, with_specials
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_READ_TEXTS = 1000  # at a time
_TRIED_TEXTS, _TRIED_CHARS = 1000, 2000
"""Texts that are encoded and decoded to see whether they come back, and how much of each."""


@dataclass(frozen=True, kw_only=True)
class TokenizerStep(OfResults):
    """The sample → a trained tokenizer, one item."""

    work: Location
    output: Location
    num_partitions: int
    spec: TokenizerSpec
    name: str = "tokenizer"
    num_items: int = 1
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        sample = Sample(self.work, self.num_partitions, self.spec.sample_chars)
        tokenizer = learn(self.spec, sample)
        (self.output / TextProcessor.file).write_text(tokenizer.to_str())
        return {
            "characters": sample.characters,
            "vocab_size": tokenizer.get_vocab_size(),
            "tried": min(len(sample), _TRIED_TEXTS),
            "came_back": _count_whole(tokenizer, sample),
        }

    def processor(self) -> TextProcessor:
        """What has become of the sample; once more the same."""
        from tokenizers import Tokenizer

        learnt = (self.output / TextProcessor.file).read_text()
        return finish(self.spec, Tokenizer.from_str(learnt))


class Sample(Collection[str]):
    """The texts to train on: each once, in the order of the partitions. Where there are more
    characters than are asked for, those with the lowest hashes: of every source and file the same
    share.

    They are read whenever they are gone through. Held are 24 bytes of each.
    """

    def __init__(self, work: Location, num_partitions: int, most_chars: int) -> None:
        self._work, self._num_partitions = work, num_partitions
        keys, lengths = bytearray(), array("q")
        for text in self._texts():
            keys += digest_of(text.encode())
            lengths.append(len(text))
        self._rooms = _rooms(keys, lengths, most_chars)

    def __iter__(self) -> Iterator[str]:
        for text, room in zip(self._texts(), self._rooms, strict=True):
            if room:
                yield text[:room]

    def __len__(self) -> int:
        return int(np.count_nonzero(self._rooms))

    def __contains__(self, text: object) -> bool:
        return any(text == each for each in self)

    @property
    def characters(self) -> int:
        """Of all texts together."""
        return int(self._rooms.sum())

    def _texts(self) -> Iterator[str]:
        for partition in range(self._num_partitions):
            with item_file(self._work, "sample", partition).open_input() as stream:
                for batch in pq.ParquetFile(stream).iter_batches(_READ_TEXTS, columns=["text"]):
                    yield from batch.column(0).to_pylist()


def _rooms(keys: bytes | bytearray, lengths: Any, most: int) -> Any:
    """How many characters of each text are taken: all, none, or of the last one what is left.

    (n,) int64

    Args:
        keys: a digest of each, one after the other.
    """
    hashes = np.frombuffer(keys, dtype="S16")
    order = np.argsort(hashes, kind="stable")
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[1:] = hashes[order][1:] != hashes[order][:-1]
    own = np.where(is_first, np.asarray(lengths, dtype=np.int64)[order], 0)
    before = np.cumsum(own) - own
    rooms = np.empty(len(hashes), dtype=np.int64)
    rooms[order] = np.clip(most - before, 0, own)
    return rooms


def learn(spec: TokenizerSpec, texts: Collection[str]) -> Tokenizer:
    """The tokenizer that a spec asks for, without what its special tokens are for: that takes
    transformers, whose seconds and 100 MB this process is spared."""
    size = spec.vocab_size
    assert size is not None, "a tokenizer to load is not trained"
    if spec.tokens == "characters":
        return learn_characters(texts, size)
    if spec.tokens == "bytes":
        return learn_bytes(texts, size, mask=spec.mask, sentinels=spec.sentinels)
    if spec.tokens == "wordpiece":
        return learn_wordpiece(
            texts, size, lowercase=spec.lowercase, normalization=spec.normalization
        )
    return learn_unigram(
        texts,
        size,
        mask=spec.mask,
        sentinels=spec.sentinels,
        lowercase=spec.lowercase,
        normalization=spec.normalization,
    )


def finish(spec: TokenizerSpec, tokenizer: Tokenizer) -> TextProcessor:
    """The processor of what was learnt, as transformers has it."""
    if spec.tokens in ("characters", "wordpiece"):
        return TextProcessor(as_bert(tokenizer))
    if spec.tokens == "bytes":
        return TextProcessor(with_specials(tokenizer, mask=spec.mask, sentinels=spec.sentinels))
    return TextProcessor(as_unigram(tokenizer, mask=spec.mask, sentinels=spec.sentinels))


def _count_whole(tokenizer: Tokenizer, texts: Collection[str]) -> int:
    """How many texts are what they were after their tokens were decoded."""
    some = islice(texts, 0, None, max(1, len(texts) // _TRIED_TEXTS))
    shown = [text[:_TRIED_CHARS] for text in islice(some, _TRIED_TEXTS)]
    encoded = tokenizer.encode_batch_fast(shown, add_special_tokens=False)
    decoded = tokenizer.decode_batch([each.ids for each in encoded], skip_special_tokens=False)
    return sum(text == back for text, back in zip(shown, decoded, strict=True))


def lost_text(summary: dict[str, Any]) -> str:
    """What a person should know of texts that do not come back; empty where all do."""
    tried, lost = summary["tried"], summary["tried"] - summary["came_back"]
    if not lost:
        return ""
    return (
        f"of {tried:,} texts of its sample {lost:,} do not come back from their tokens as they "
        "were: white space, capitals, other ways of writing or unknown characters are lost"
    )
