"""Which documents are kept, on which side of the holdout they fall, and which are duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raymodel.data.account import Account
from raymodel.data.spec import CleanSpec


def clean_text(text: str, spec: CleanSpec, account: Account) -> str | None:
    """The document as it is kept; None, left out, when it is too short.

    Line ends become `\\n`; lone surrogates (legal in JSON, not in UTF-8) become `?`.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    if len(text) < spec.min_chars or not text.strip():
        account.leave_out(
            "shorter than clean.min_chars" if text.strip() else "empty document", text
        )
        return None
    return text[: spec.max_chars]


def is_held_out(document: bytes, seed: int, fraction: float) -> bool:
    """Whether a document is kept from training.

    A hash of (seed, document) below a threshold: the same document falls on the same side in every
    stage with this seed, and a larger fraction holds out the same documents and more.
    """
    key = hashlib.blake2b(document, digest_size=8, key=seed.to_bytes(16, "little")).digest()
    return int.from_bytes(key, "little") < fraction * 2.0**64


def key_table(digests: Sequence[bytes], partition_index: int) -> pa.Table:
    """The keys of one partition's documents, for `find_duplicates`: 128 bits and the place."""
    words = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
    return pa.table(
        {
            "high": words[:, 0],
            "low": words[:, 1],
            "partition": np.full(len(words), partition_index, dtype=np.int32),
            "index": np.arange(len(words), dtype=np.int32),
        }
    )


def bucket_of(keys: pa.Table, num_buckets: int) -> Any:
    """The bucket of each key: equal texts always meet in the same one. (n,) int64"""
    return (keys["high"].to_numpy() % np.uint64(num_buckets)).astype(np.int64)


def find_duplicates(keys: pa.Table) -> pa.Table:
    """All documents but the first of each text, in the order of (partition, index).

    Returns: columns `partition`, `index`, sorted by them.
    """
    high, low = keys["high"].to_numpy(), keys["low"].to_numpy()
    partition, index = keys["partition"].to_numpy(), keys["index"].to_numpy()
    by_key = np.lexsort((index, partition, low, high))
    repeats = np.zeros(len(by_key), dtype=bool)
    same_high = high[by_key][1:] == high[by_key][:-1]
    repeats[1:] = same_high & (low[by_key][1:] == low[by_key][:-1])
    dropped = by_key[repeats]
    dropped = dropped[np.lexsort((index[dropped], partition[dropped]))]
    return pa.table({"partition": partition[dropped], "index": index[dropped]})
