"""How probable a causal model finds held-out text: perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from raymodel.tasks.base import Task
from raymodel.tasks.batch import batches, decode, pad_id
from raymodel.tasks.loss import IGNORED

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
    for part in batches(rows, batch_rows):
        batch = task.collate(part, pad_id(tokenizer))
        num_bytes += _target_bytes(batch["labels"], tokenizer)
        num_targets += task.num_targets(batch)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        nats += float(task.loss(model, batch))
    if not num_targets:
        raise ValueError("the held-out rows hold no token to predict; hold out more documents")
    return {
        "perplexity": _exp(nats / num_targets),
        "bits_per_byte": nats / math.log(2) / max(1, num_bytes),
    }


def _target_bytes(labels_BT: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> int:
    """UTF-8 bytes of the predicted text. End-of-text tokens have none, though they bear loss."""
    targets = [labels[1:][labels[1:] != IGNORED].tolist() for labels in labels_BT]
    return sum(len(decode(tokenizer, ids).encode("utf-8")) for ids in targets)


def _exp(mean_nats: float) -> float:
    try:
        return math.exp(mean_nats)
    except OverflowError:
        return math.inf
