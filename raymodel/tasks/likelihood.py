"""How probable a model finds held-out rows: perplexity and bits per byte. Loads no torch."""

from __future__ import annotations

import math


def likelihood_scores(nats: float, num_targets: int, num_bytes: int) -> dict[str, float]:
    """`perplexity` and `bits_per_byte`, of the loss of all targets together.

    Perplexity is exp(mean loss of a target) and depends on the tokenizer. Bits per byte, the total
    loss in bits over the UTF-8 bytes of the targets' text, does not (arXiv:2101.00027, part 3.1).

    Args:
        nats: the sum of the loss.
        num_targets: that bear it.
        num_bytes: of their text.

    Raises:
        ValueError: there is no target.
    """
    if not num_targets:
        raise ValueError("the held-out rows hold no token to predict; hold out more documents")
    return {
        "perplexity": _exp(nats / num_targets),
        "bits_per_byte": nats / math.log(2) / max(1, num_bytes),
    }


def _exp(mean_nats: float) -> float:
    try:
        return math.exp(mean_nats)
    except OverflowError:
        return math.inf
