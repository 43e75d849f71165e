"""The contrastive loss: each query must find its document among all documents of the step.

InfoNCE (arXiv:1807.03748), the softmax over the similarities of a query to its own document, to the
documents of the other queries and to those that are given as negatives (arXiv:2004.04906).

Shapes: B queries of this worker, N documents of all workers, D numbers of a vector.
"""

from __future__ import annotations

import torch

from raymodel.tasks.gather import gather_rows
from raymodel.tasks.loss import cross_entropy_sum


def contrastive_loss_sum(
    queries_BD: torch.Tensor,
    documents_nD: torch.Tensor,
    *,
    query_keys_B: torch.Tensor,
    keys_n: torch.Tensor,
    owner_keys_n: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Sum over this worker's queries of -log p(own document), a scalar in fp32.

    A document that stands in the step twice, or belongs to an equal query, is not wrong: it is left
    out of the softmax wherever it would count as a negative.

    Args:
        queries_BD: of length 1; there may be none.
        documents_nD: of length 1, of this worker: first the own document of each query, in their
            order, then those given as negatives.
        query_keys_B: equal for equal queries. int64
        keys_n: equal for equal documents. int64
        owner_keys_n: of each document the key of the query whose own it is, of a negative 0. int64
        temperature: by which similarities are divided.
    """
    documents, start = gather_rows(documents_nD.float())
    keys_N, _ = gather_rows(keys_n)
    owner_keys_N, _ = gather_rows(owner_keys_n)
    logits_BN = queries_BD.float() @ documents.T / temperature
    own_B = start + torch.arange(len(queries_BD), device=documents.device)
    is_right_BN = keys_N == keys_N[own_B, None]
    is_right_BN |= owner_keys_N == query_keys_B[:, None]
    is_own_BN = torch.arange(len(documents), device=documents.device) == own_B[:, None]
    logits_BN = logits_BN.masked_fill(is_right_BN & ~is_own_BN, float("-inf"))
    return cross_entropy_sum(logits_BN, own_B)
