"""How probable a causal model finds held-out text: perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from raymodel.tasks.base import Task
from raymodel.tasks.batch import batches, pad_id
from raymodel.tasks.token_bytes import TokenBytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def measure_likelihood(
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Any],
    batch_rows: int,
) -> dict[str, float]:
    """`perplexity` and `bits_per_byte` over every target of `rows`.

    Perplexity is exp(mean loss of a target) and depends on the tokenizer. Bits per byte, the total
    loss in bits over the UTF-8 bytes of the targets' text, does not (arXiv:2101.00027, part 3.1).
    """
    nats, num_targets, num_bytes = 0.0, 0, 0
    sizes = TokenBytes(tokenizer)
    for part in batches(rows, batch_rows):
        batch = task.collate(part, pad_id(tokenizer))
        num_bytes += target_bytes(batch["labels"], sizes)
        num_targets += task.num_targets(batch)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        nats += float(task.loss(model, batch))
    if not num_targets:
        raise ValueError("the held-out rows hold no token to predict; hold out more documents")
    return {
        "perplexity": _exp(nats / num_targets),
        "bits_per_byte": nats / math.log(2) / max(1, num_bytes),
    }


def target_bytes(labels_BT: torch.Tensor, sizes: TokenBytes) -> int:
    """UTF-8 bytes of the predicted text. End-of-text tokens have none, though they bear loss."""
    # The first token of a row is not predicted; `IGNORED` is no token.
    return sum(int(sizes.count(labels_T)[1:].sum()) for labels_T in labels_BT.numpy())


def _exp(mean_nats: float) -> float:
    try:
        return math.exp(mean_nats)
    except OverflowError:
        return math.inf
