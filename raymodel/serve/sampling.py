"""From logits to tokens: greedy, temperature, nucleus; a row never depends on its neighbours.

Shapes: N running rows, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request's tokens are chosen, and when it ends."""

    max_tokens: int
    """Longest answer."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together have this probability (arXiv:1904.09751)."""
    seed: int | None = None
    """The same seed, prompt and model give the same answer, whatever else runs; None is random."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""

    def draws(self) -> random.Random:
        """The request's own source of numbers, on the host: it is the same on every device."""
        return random.Random(self.seed)


def choose_tokens(
    logits: torch.Tensor, samplings: Sequence[Sampling], draws: Sequence[random.Random]
) -> list[int]:
    """The next token of each row.

    Args:
        logits: (N, V).
        samplings: N of them.
        draws: N sources, each advanced once unless its row is greedy.
    """
    greedy: list[int] = logits.argmax(-1).tolist()
    sampled = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not sampled:
        return greedy
    chosen = _sample(
        logits[sampled].float(),
        [samplings[row].temperature for row in sampled],
        [samplings[row].top_p for row in sampled],
        [draws[row].random() for row in sampled],
    )
    for row, token in zip(sampled, chosen, strict=True):
        greedy[row] = token
    return greedy


def _sample(
    logits: torch.Tensor, temperatures: list[float], top_ps: list[float], uniforms: list[float]
) -> list[int]:
    """Inverts the cumulative distribution at one uniform number a row."""
    device = logits.device
    # Against overflow at tiny temperatures, where the result is greedy anyway.
    scaled = logits - logits.max(-1, keepdim=True).values
    scaled = scaled / torch.tensor(temperatures, device=device).clamp(min=1e-6)[:, None]
    probabilities = scaled.softmax(-1)
    uniform = torch.tensor(uniforms, device=device)[:, None]
    if min(top_ps) >= 1.0:
        return _invert(probabilities.cumsum(-1), uniform).tolist()
    ordered, order = probabilities.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = before < torch.tensor(top_ps, device=device)[:, None]
    kept[:, 0] = True
    place = _invert((ordered * kept).cumsum(-1), uniform)
    tokens: list[int] = order.gather(-1, place[:, None])[:, 0].tolist()
    return tokens


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(N,) the first place whose cumulative weight exceeds `uniform` of the row's total."""
    total = cumulative[:, -1:].contiguous()
    # `right=True`: a token of weight zero is never chosen, even by a uniform number of exactly 0.
    place = torch.searchsorted(cumulative, uniform * total, right=True)[:, 0]
    # Rounding may put the target on the total itself; the last place with weight is meant then.
    last = torch.searchsorted(cumulative, total)[:, 0]
    return torch.minimum(place, last)
