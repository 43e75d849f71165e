"""The step that trains a tokenizer, on a sample of all partitions alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raymodel.data.record import digest_of
from raymodel.data.spec import TokenizerSpec
from raymodel.data.step import OfResults, item_file
from raymodel.modality.characters import train_character_tokenizer
from raymodel.modality.subwords import train_unigram, train_wordpiece
from raymodel.modality.text import TextProcessor, train_tokenizer
from raymodel.storage.uri import Location

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
        texts = self._chosen_texts()
        tokenizer = train(self.spec, texts)
        TextProcessor(tokenizer).save(self.output)
        return {
            "characters": sum(map(len, texts)),
            "vocab_size": len(tokenizer),
            "tried": min(len(texts), _TRIED_TEXTS),
            "came_back": _count_whole(tokenizer, texts),
        }

    def _chosen_texts(self) -> list[str]:
        """Each text once, in the order of the partitions. Where there are more characters than are
        asked for, those with the lowest hashes: of every source and file the same share."""
        keys, lengths = list[bytes](), list[int]()
        for text in self._texts():
            keys.append(digest_of(text.encode()))
            lengths.append(len(text))
        room_of = _rooms(keys, lengths, self.spec.sample_chars)
        texts = []
        for place, text in enumerate(self._texts()):
            if room := int(room_of[place]):
                texts.append(text[:room])
        return texts

    def _texts(self) -> Iterator[str]:
        for partition in range(self.num_partitions):
            with item_file(self.work, "sample", partition).open_input() as stream:
                for batch in pq.ParquetFile(stream).iter_batches(columns=["text"]):
                    yield from batch.column(0).to_pylist()


def _rooms(keys: list[bytes], lengths: list[int], most: int) -> Any:
    """How many characters of each text are taken: all, none, or of the last one what is left.

    (n,) int64
    """
    hashes = np.array(keys, dtype="S16")
    order = np.argsort(hashes, kind="stable")
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = hashes[order][1:] != hashes[order][:-1]
    own = np.where(is_first, np.array(lengths, dtype=np.int64)[order], 0)
    before = np.cumsum(own) - own
    rooms = np.empty(len(keys), dtype=np.int64)
    rooms[order] = np.clip(most - before, 0, own)
    return rooms


def train(spec: TokenizerSpec, texts: list[str]) -> Any:
    """The tokenizer that a spec asks for, of transformers."""
    size = spec.vocab_size
    assert size is not None, "a tokenizer to load is not trained"
    if spec.tokens == "characters":
        return train_character_tokenizer(texts, size)
    if spec.tokens == "bytes":
        return train_tokenizer(texts, size, mask=spec.mask, sentinels=spec.sentinels)
    if spec.tokens == "wordpiece":
        return train_wordpiece(
            texts, size, lowercase=spec.lowercase, normalization=spec.normalization
        )
    return train_unigram(
        texts,
        size,
        mask=spec.mask,
        sentinels=spec.sentinels,
        lowercase=spec.lowercase,
        normalization=spec.normalization,
    )


def _count_whole(tokenizer: Any, texts: list[str]) -> int:
    """How many texts are what they were after their tokens were decoded."""
    shown = [text[:_TRIED_CHARS] for text in texts[:: max(1, len(texts) // _TRIED_TEXTS)]]
    shown = shown[:_TRIED_TEXTS]
    encoder = tokenizer.backend_tokenizer
    encoded = encoder.encode_batch_fast(shown, add_special_tokens=False)
    decoded = encoder.decode_batch([each.ids for each in encoded], skip_special_tokens=False)
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
