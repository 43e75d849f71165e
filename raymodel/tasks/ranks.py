"""How good a ranking is, from the rank of the one document that is right."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

DEEP = 10
"""The places that count: a first page of results."""
_CHUNK = 1024  # queries whose scores lie in memory at a time


def rank_scores(ranks: Sequence[int], *, found: str) -> dict[str, float]:
    """How often the right document is first and among the first ten, `mrr` and `ndcg@10`, over
    queries with one right document each.

    With one right document recall and hit rate are the same, and `ndcg@10` is 1 / log2(1 + rank)
    (doi:10.1145/582415.582418), 0 beyond the tenth place.

    Args:
        ranks: of the right document for each query, from 1.
        found: what the first two are called: `recall` gives `recall@1` and `recall@10`.
    """
    return {
        f"{found}@1": _mean([rank <= 1 for rank in ranks]),
        f"{found}@{DEEP}": _mean([rank <= DEEP for rank in ranks]),
        "mrr": _mean([1 / rank for rank in ranks]),
        f"ndcg@{DEEP}": _mean([1 / math.log2(1 + rank) if rank <= DEEP else 0.0 for rank in ranks]),
    }


def rank_of_first(relevances: Sequence[float]) -> int:
    """The rank of the first of some relevances, from 1; what is not lower is put before it, so that
    a model which says the same of everything, or NaN, does not rank well."""
    return sum(not each < relevances[0] for each in relevances)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def ranks_among_all(
    queries: Sequence[Sequence[float]],
    documents: Sequence[Sequence[float]],
    *,
    query_keys: Sequence[int],
    document_keys: Sequence[int],
) -> list[int]:
    """The rank of each query's own document among all, from 1, by the product of their vectors.

    Equal documents are one. A document that is right for an equal query is not wrong for this one.
    What does not score lower than the own document is put before it, as in `rank_of_first`.

    Args:
        queries: N vectors.
        documents: the own document of each, N vectors.
        query_keys: equal for equal queries.
        document_keys: equal for equal documents.
    """
    _, first, own_N = np.unique(document_keys, return_index=True, return_inverse=True)
    right = defaultdict[int, set[int]](set)
    for key, place in zip(query_keys, own_N.tolist(), strict=True):
        right[key].add(place)
    query_ND = np.asarray(queries, dtype=np.float32)
    document_MD = np.asarray(documents, dtype=np.float32)[first]
    ranks = list[int]()
    for start in range(0, len(query_ND), _CHUNK):
        similarities_nM = query_ND[start : start + _CHUNK] @ document_MD.T
        for index, similarities_M in enumerate(similarities_nM, start):
            own = own_N[index]
            others = right[query_keys[index]] - {own}
            is_before_M = ~(similarities_M < similarities_M[own])  # itself too
            is_before_M[list(others)] = False
            ranks.append(int(is_before_M.sum()))
    return ranks
