"""From logits to tokens: greedy, temperature, nucleus; a row never depends on its neighbours.

Shapes: N running rows, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

# A nucleus is mostly small: ranking so many tokens costs a tenth of sorting a whole vocabulary.
_FIRST_RANKED = 256


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
    top_p = torch.tensor(top_ps, device=device)[:, None]
    ordered, order = probabilities.topk(min(_FIRST_RANKED, probabilities.shape[-1]))
    tokens = _draw_nucleus(ordered, order, top_p, uniform)
    # Each row by itself decides whether it needs the full order, so that its neighbours, which may
    # need it, do not change how its own ties are ordered.
    is_wide = (ordered.sum(-1) < top_p[:, 0]).nonzero()[:, 0]
    if len(is_wide):
        ordered, order = probabilities[is_wide].sort(-1, descending=True)
        tokens[is_wide] = _draw_nucleus(ordered, order, top_p[is_wide], uniform[is_wide])
    return tokens.tolist()


def _draw_nucleus(
    ordered: torch.Tensor, order: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor
) -> torch.Tensor:
    """(N,) tokens, from the fewest of the (N, K) likeliest that reach `top_p`, (N, 1)."""
    kept = ordered.cumsum(-1) - ordered < top_p
    kept[:, 0] = True
    place = _invert((ordered * kept).cumsum(-1), uniform)
    return order.gather(-1, place[:, None])[:, 0]


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(N,) the first place whose cumulative weight exceeds `uniform` of the row's total."""
    total = cumulative[:, -1:].contiguous()
    # `right=True`: a token of weight zero is never chosen, even by a uniform number of exactly 0.
    place = torch.searchsorted(cumulative, uniform * total, right=True)[:, 0]
    # Rounding may put the target on the total itself; the last place with weight is meant then.
    last = torch.searchsorted(cumulative, total)[:, 0]
    return torch.minimum(place, last)
