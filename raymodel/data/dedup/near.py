"""Which of the documents that meet in a band are near to an earlier one.

Candidates are verified by their sketches, which travel with the keys: of texts 64 bytes a document
and band, where the exact similarity would need both texts in one place, another pass of the whole
corpus over the network; of images all that is compared, 8 bytes.

In each group of documents with one key, in the order of the corpus, one that is near to a *leader*
is dropped, and one that is near to none becomes a leader. No state is larger than a bucket, unlike
the clusters of all pairs (union-find), and yet of those that meet no two that are kept are near:
the later was held against the earlier, or, where that was no leader, the earlier was dropped. And
chains lose less: what is like a dropped document alone is kept, unless that led another group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from raymodel.data.dedup.plan import MAX_LEADERS

PLACE = (("partition", "<i4"), ("index", "<i4"))
OF_LABELLED = (("label", "<u8"), ("group", "u1", (16,)), ("split", "u1"))
DUPLICATE = np.dtype([*PLACE])
CONFLICT = np.dtype([*PLACE, ("group", "u1", (16,)), ("split", "u1")])
"""A document, and on which side the one falls that contradicts it."""


def record_type(words: int, *, is_labelled: bool) -> Any:
    """The dtype of a document in a band: its key, its place, its sketch of so many words of 64
    bits, and where labels can contradict one another its own, and what tells on which side of the
    holdout it falls."""
    more = OF_LABELLED if is_labelled else ()
    return np.dtype([("key", "<u8"), *PLACE, ("sketch", "<u8", (words,)), *more])


class Found(NamedTuple):
    """What is in a bucket of one band."""

    duplicates: Any
    """Of the dtype `DUPLICATE`, by place."""
    conflicts: Any
    """Of the dtype `CONFLICT`, by place: near to an earlier one of another label."""
    unseen: int
    """Documents that were not held against all leaders, as there were more than `MAX_LEADERS`."""


def find_near(records: Any, are_near: Callable[[Any, Any], Any]) -> Found:
    """The near-duplicates among the documents of one bucket, in whatever order they come.

    Args:
        records: of a `record_type`.
        are_near: of a `Likeness`.
    """
    records = _in_groups(records)
    is_labelled = "label" in records.dtype.names
    dropped, conflicts, left = list[Any](), list[Any](), np.arange(len(records))
    for _ in range(MAX_LEADERS):
        left, leaders = _held_against(records["key"], left)
        if not len(left):
            break
        sketches = records["sketch"]
        is_near = are_near(sketches[left], sketches[leaders])
        if is_labelled:
            labels = records["label"]
            contradicts = is_near & (labels[left] != labels[leaders])
            is_near &= ~contradicts
            conflicts.append(
                _conflicts(records[left[contradicts]], records[leaders[contradicts]]),
            )
        dropped.append(left[is_near])
        left = left[~is_near]
    else:
        left, _ = _held_against(records["key"], left)
    places = records[np.concatenate([*dropped, np.empty(0, np.int64)])]
    return Found(
        _by_place(_copied(places, DUPLICATE)),
        _by_place(np.concatenate([*conflicts, np.empty(0, CONFLICT)])),
        len(left),
    )


def _in_groups(records: Any) -> Any:
    """Those whose key others have too, by key, and of one key by place."""
    order = np.lexsort((records["index"], records["partition"], records["key"]))
    keys = records["key"][order]
    is_same = keys[1:] == keys[:-1]
    is_shared = np.zeros(len(keys), dtype=bool)
    is_shared[1:] |= is_same
    is_shared[:-1] |= is_same
    return records[order[is_shared]]


def _held_against(keys: Any, left: Any) -> tuple[Any, Any]:
    """Without the first of each group: the others, and the first of each."""
    own = keys[left]
    is_first = np.ones(len(left), dtype=bool)
    is_first[1:] = own[1:] != own[:-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(left)), 0))
    return left[~is_first], left[first[~is_first]]


def _conflicts(later: Any, earlier: Any) -> Any:
    found = np.empty(len(later), dtype=CONFLICT)
    for name, _ in PLACE:
        found[name] = later[name]
    found["group"], found["split"] = earlier["group"], earlier["split"]
    return found


def _copied(records: Any, dtype: Any) -> Any:
    found = np.empty(len(records), dtype=dtype)
    for name in dtype.names:
        found[name] = records[name]
    return found


def _by_place(found: Any) -> Any:
    return found[np.lexsort((found["index"], found["partition"]))]
