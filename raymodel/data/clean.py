"""Which documents are kept, on which side of the holdout they fall, and which are duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from raymodel.data.spec import CleanSpec
from raymodel.tasks.prompt import TOO_LONG

Kept = Literal["start", "end"]
"""Which end of a text stays when it is too long."""


TOO_SHORT = "shorter than clean.min_chars"
NOT_SHARED = "beyond the share of its source"
TOO_LARGE = "record of more than max_record_bytes"


def asked_for(spec: CleanSpec) -> frozenset[str]:
    """Reasons to leave a record out that the job file gives; all others say that the data is
    bad."""
    of_steps = (reason for step in spec.steps for reason in step.reasons.values())
    return frozenset({TOO_SHORT, TOO_LONG, NOT_SHARED, TOO_LARGE, *of_steps})


def clean_text(text: str) -> str:
    """Line ends become `\\n`; lone surrogates (legal in JSON, not in UTF-8) become `?`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def reason_to_drop(texts: Collection[str], spec: CleanSpec) -> str | None:
    """Why a document of these cleaned texts is not kept; None when it is."""
    if texts and not any(text.strip() for text in texts):
        return "empty document"
    return TOO_SHORT if texts and sum(map(len, texts)) < spec.min_chars else None


def cut_text(text: str, max_chars: int, kept: Kept) -> str:
    """At most `max_chars` of a text, of the end that its reader needs."""
    return text[:max_chars] if kept == "start" else text[max(0, len(text) - max_chars) :]


def values_digest(values: Sequence[Any]) -> bytes:
    """16 bytes that stand for several values, and for where one ends and the next begins.

    Args:
        values: texts, bytes, numbers, lists of them, and mappings, of which the values count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        data = [*value.values()] if isinstance(value, dict) else value
        data = values_digest(data) if isinstance(data, list) else data
        data = data if isinstance(data, bytes) else str(data).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def is_held_out(document: bytes, seed: int, fraction: float) -> bool:
    """Whether a document is kept from training.

    A hash of (seed, document) below a threshold: the same document falls on the same side in every
    stage with this seed, and a larger fraction holds out the same documents and more.
    """
    return holdout_key(document, seed) < fraction * 2.0**64


def is_shared(document: bytes, seed: int, share: float) -> bool:
    """Whether a document that is trained on is in the share of its source that is used.

    Of another hash than `is_held_out`, of which the lowest values are all held out.
    """
    key = hashlib.blake2b(
        document, digest_size=8, key=seed.to_bytes(16, "little"), person=b"share"
    ).digest()
    return share >= 1 or int.from_bytes(key, "little") < share * 2.0**64


def holdout_key(document: bytes, seed: int) -> int:
    """A hash of 64 bits; the documents with the lowest are held out first."""
    key = hashlib.blake2b(document, digest_size=8, key=seed.to_bytes(16, "little")).digest()
    return int.from_bytes(key, "little")


def key_table(
    digests: Sequence[bytes], labels: Sequence[str | None], partition_index: int
) -> pa.Table:
    """The keys of one partition's documents, for `compare_documents`: 128 bits, label, place."""
    words = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
    hashes = [0 if label is None else text_hash(label) for label in labels]
    return pa.table(
        {
            "high": words[:, 0],
            "low": words[:, 1],
            "label": np.array(hashes, dtype=np.uint64),
            "partition": np.full(len(words), partition_index, dtype=np.int32),
            "index": np.arange(len(words), dtype=np.int32),
        }
    )


def text_hash(text: str) -> int:
    """64 bits that stand for a label."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Comparison(NamedTuple):
    """Places of documents, as columns `partition`, `index`, sorted by them."""

    duplicates: pa.Table
    """All documents but the first of each text with the same label."""
    conflicts: pa.Table
    """The first document of each text that has several labels."""


def compare_documents(keys: pa.Table) -> Comparison:
    """Finds what stands more than once among the documents of one bucket."""
    high, low, label = (keys[name].to_numpy() for name in ("high", "low", "label"))
    partition, index = keys["partition"].to_numpy(), keys["index"].to_numpy()
    by_key = np.lexsort((index, partition, label, low, high))
    same_text = np.zeros(len(by_key), dtype=bool)
    same_high = high[by_key][1:] == high[by_key][:-1]
    same_text[1:] = same_high & (low[by_key][1:] == low[by_key][:-1])
    same_label = np.zeros(len(by_key), dtype=bool)
    same_label[1:] = label[by_key][1:] == label[by_key][:-1]
    text = np.empty(len(by_key), dtype=np.int64)
    text[by_key] = np.cumsum(~same_text)
    in_order = np.lexsort((index, partition))
    torn = in_order[np.isin(text[in_order], text[by_key][same_text & ~same_label])]
    _, first = np.unique(text[torn], return_index=True)
    return Comparison(
        duplicates=_places(keys, by_key[same_text & same_label]),
        conflicts=_places(keys, torn[first]),
    )


def _places(keys: pa.Table, rows: Any) -> pa.Table:
    places = keys.select(["partition", "index"]).take(pa.array(rows))
    return places.sort_by([("partition", "ascending"), ("index", "ascending")])
