"""From logits to tokens and log-probabilities, in torch; a row never depends on its neighbours.

Shapes: N running rows, V vocabulary, T tokens of a text, K tokens of the highest probability.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from raymodel.serve.answer import Answer, Scored
from raymodel.serve.sampling import Sampling

if TYPE_CHECKING:
    from raymodel.serve.ahead import Ahead

# A nucleus is mostly small: ranking so many tokens costs a tenth of sorting a whole vocabulary.
_FIRST_RANKED = 256
# Logits that are held in fp32 at the same time while a prompt is scored.
_SCORED_NUMBERS = 2**22
_ALL = 2**62  # `top_k` of rows without one


def change_logits(logits: torch.Tensor, answers: Sequence[Answer | Ahead]) -> torch.Tensor:
    """The logits that the next tokens are chosen from.

    Args:
        logits: (N, V), the model's; left as they are.
        answers: of the N rows.
    """
    changed = [row for row, answer in enumerate(answers) if answer.sampling.changes_logits]
    if not changed:
        return logits
    logits = logits.to(torch.float32, copy=True)
    for row in changed:
        _change(logits[row], answers[row])
    return logits


def _change(logits_V: torch.Tensor, answer: Answer | Ahead) -> None:
    """In place, in the order that `Sampling` tells."""
    sampling, device = answer.sampling, logits_V.device
    if sampling.logit_bias:
        tokens, biases = zip(*sampling.logit_bias, strict=True)
        logits_V[list(tokens)] += torch.tensor(biases, device=device)
    if len(answer.tokens) < sampling.min_tokens:
        logits_V[list(answer.ends)] = -torch.inf
    if sampling.repetition_penalty != 1:
        seen = list({*answer.prompt, *answer.tokens})
        before = logits_V[seen]
        penalty = sampling.repetition_penalty
        logits_V[seen] = torch.where(before > 0, before / penalty, before * penalty)
    if answer.tokens and (sampling.presence_penalty or sampling.frequency_penalty):
        written = torch.tensor(answer.tokens, device=device)
        tokens, counts = written.unique(return_counts=True)  # type: ignore[no-untyped-call]
        logits_V[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    if answer.form is not None:
        logits_V[~answer.form.allowed(len(logits_V)).to(device)] = -torch.inf


def score_tokens(logits_TV: torch.Tensor, tokens: Sequence[int], num_top: int) -> list[Scored]:
    """Log-probabilities of tokens, each by the logits of its place.

    Args:
        logits_TV: the model's, of any dtype; of a long prompt little at a time is held in fp32.
        tokens: T of them.
        num_top: likeliest tokens to tell beside each.
    """
    scored: list[Scored] = []
    num_rows = max(1, _SCORED_NUMBERS // logits_TV.shape[-1])
    for start in range(0, len(tokens), num_rows):
        some = tokens[start : start + num_rows]
        scored += _score(logits_TV[start : start + len(some)].float(), some, num_top)
    return scored


def _score(logits_TV: torch.Tensor, tokens: Sequence[int], num_top: int) -> list[Scored]:
    total = logits_TV.logsumexp(-1, keepdim=True)
    own = logits_TV.gather(-1, torch.tensor(tokens, device=logits_TV.device)[:, None]) - total
    values, top = logits_TV.topk(min(num_top, logits_TV.shape[-1]))
    # The same subtraction for both, so that the likeliest token's own number is that of the list.
    rows = zip(tokens, own[:, 0].tolist(), top.tolist(), (values - total).tolist(), strict=True)
    return [
        Scored(token, logprob, tuple(zip(ids, logprobs, strict=True)))
        for token, logprob, ids, logprobs in rows
    ]


def choose_tokens(
    logits: torch.Tensor, samplings: Sequence[Sampling], draws: Sequence[random.Random]
) -> list[int]:
    """The next token of each row.

    Args:
        logits: (N, V).
        samplings: N of them.
        draws: N sources, each advanced once unless its row is greedy.
    """
    tokens: list[int] = logits.argmax(-1).tolist()
    sampled = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    if not sampled:
        return tokens
    uniforms = torch.tensor([draws[row].random() for row in sampled], device=logits.device)
    temperatures = [samplings[row].temperature for row in sampled]
    probabilities = _probabilities(logits[sampled].float(), temperatures)
    # Rows that are cut are ranked and others are not, whatever stands beside them: a number that is
    # drawn means another token in another order.
    for is_cut in (False, True):
        places = [i for i, row in enumerate(sampled) if samplings[row].cuts == is_cut]
        if not places:
            continue
        some, uniform_N1 = probabilities[places], uniforms[places, None]
        if is_cut:
            chosen = _draw_cut(some, [samplings[sampled[i]] for i in places], uniform_N1)
        else:
            chosen = _invert(some.cumsum(-1), uniform_N1)
        for i, token in zip(places, chosen.tolist(), strict=True):
            tokens[sampled[i]] = token
    return tokens


def token_probabilities(logits: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """(N, V) with which tokens are drawn, in fp32; every row has a temperature above 0."""
    drawn = _probabilities(logits.float(), [sampling.temperature for sampling in samplings])
    places = [row for row, sampling in enumerate(samplings) if sampling.cuts]
    if places:
        some = drawn[places]
        cut = torch.zeros_like(some)
        for rows, weights, order in _kept(some, [samplings[row] for row in places]):
            cut[rows] = torch.zeros_like(some[rows]).scatter(-1, order, weights)
        drawn[places] = cut / cut.sum(-1, keepdim=True)
    return drawn


def draw_tokens(probabilities: torch.Tensor, draws: Sequence[random.Random]) -> list[int]:
    """One of each row of (N, V) probabilities, which need not add up to 1."""
    uniforms = torch.tensor([each.random() for each in draws], device=probabilities.device)
    tokens: list[int] = _invert(probabilities.cumsum(-1), uniforms[:, None]).tolist()
    return tokens


def keep_or_redraw(
    probabilities: torch.Tensor,
    drafted: torch.Tensor,
    tokens: Sequence[int],
    draws: Sequence[random.Random],
) -> list[int]:
    """Tokens that were drawn from other probabilities, made ones that are drawn from the right ones
    (arXiv:2211.17192, algorithm 1).

    A token stays with as much probability as it has of what it was drawn with, at most 1; else one
    is drawn of what the right probabilities have more. So no row is ever likelier to give a token
    than it is by itself, and as often as can be it is the one that is there.

    Args:
        probabilities: (N, V), the right ones.
        drafted: (N, V), of which each token was drawn.
        tokens: N of them.
        draws: N sources, each advanced twice.
    """
    device = probabilities.device
    uniforms = torch.tensor([each.random() for each in draws], device=device)[:, None]
    tokens_N1 = torch.tensor(tokens, device=device)[:, None]
    stays = uniforms * drafted.gather(-1, tokens_N1) < probabilities.gather(-1, tokens_N1)
    more = (probabilities - drafted).clamp(min=0)
    # Of two that are equal but for rounding nothing may be left.
    more = torch.where(more.sum(-1, keepdim=True) > 0, more, probabilities)
    others = draw_tokens(more, draws)
    return [
        token if stay else other
        for token, stay, other in zip(tokens, stays[:, 0].tolist(), others, strict=True)
    ]


def _probabilities(logits: torch.Tensor, temperatures: list[float]) -> torch.Tensor:
    # Against overflow at tiny temperatures, where the result is greedy anyway.
    scaled = logits - logits.max(-1, keepdim=True).values
    divisors = torch.tensor(temperatures, device=logits.device).clamp(min=1e-6)
    return (scaled / divisors[:, None]).softmax(-1)


class _Cut(NamedTuple):
    """Which of a row's tokens may be drawn; (N, 1) each."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> _Cut:
        rows = [(s.top_k or _ALL, s.top_p, s.min_p) for s in samplings]
        top_k, top_p, min_p = (torch.tensor(column, device=device) for column in zip(*rows))  # noqa: B905
        return cls(top_k[:, None], top_p[:, None], min_p[:, None])

    def rows(self, places: torch.Tensor) -> _Cut:
        return _Cut(self.top_k[places], self.top_p[places], self.min_p[places])

    def is_within(self, ordered: torch.Tensor) -> torch.Tensor:
        """(N,) whether all that a row keeps is among its (N, K) likeliest tokens."""
        is_counted = self.top_k <= ordered.shape[-1]
        # What `top_p` is a share of is known only when all of `top_k` are ranked.
        reaches_p = (self.top_k == _ALL) & (ordered.sum(-1, keepdim=True) >= self.top_p)
        passes_min = (self.top_k == _ALL) | (self.top_p == 1)
        passes_min = passes_min & (ordered[:, -1:] < self.min_p * ordered[:, :1])
        return (is_counted | ((self.top_p < 1) & reaches_p) | passes_min)[:, 0]

    def keep(self, ordered: torch.Tensor) -> torch.Tensor:
        """(N, K) the weights that are left of ranked probabilities."""
        ranked = ordered * (torch.arange(ordered.shape[-1], device=ordered.device) < self.top_k)
        # `top_p` is a share of what `top_k` has left, else of everything.
        total = torch.where(self.top_k == _ALL, 1.0, ranked.sum(-1, keepdim=True))
        share = torch.where(self.top_p < 1, self.top_p * total, torch.inf)
        kept = (ranked.cumsum(-1) - ranked < share) & (ranked >= self.min_p * ranked[:, :1])
        kept[:, 0] = True
        return ranked * kept


def _draw_cut(
    probabilities: torch.Tensor, samplings: Sequence[Sampling], uniform: torch.Tensor
) -> torch.Tensor:
    """(N,) tokens of those that `top_k`, `top_p` and `min_p` keep."""
    tokens = torch.empty(len(probabilities), dtype=torch.long, device=probabilities.device)
    for rows, weights, order in _kept(probabilities, samplings):
        tokens[rows] = _draw_ranked(weights, order, uniform[rows])
    return tokens


def _kept(
    probabilities: torch.Tensor, samplings: Sequence[Sampling]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What `top_k`, `top_p` and `min_p` keep: rows, the weights of their likeliest tokens, and
    which these are. A row that comes again is meant as it comes last."""
    cut = _Cut.of(samplings, probabilities.device)
    ordered, order = probabilities.topk(min(_FIRST_RANKED, probabilities.shape[-1]))
    yield torch.arange(len(ordered), device=ordered.device), cut.keep(ordered), order
    # Each row by itself decides whether it needs the full order, so that its neighbours, which may
    # need it, do not change how its own ties are ordered.
    is_wide = (~cut.is_within(ordered)).nonzero()[:, 0]
    if len(is_wide):
        ordered, order = probabilities[is_wide].sort(-1, descending=True)
        yield is_wide, cut.rows(is_wide).keep(ordered), order


def _draw_ranked(weights: torch.Tensor, order: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    place = _invert(weights.cumsum(-1), uniform)
    return order.gather(-1, place[:, None])[:, 0]


def _invert(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """(N,) the first place whose cumulative weight exceeds `uniform` of the row's total."""
    total = cumulative[:, -1:].contiguous()
    # `right=True`: a token of weight zero is never chosen, even by a uniform number of exactly 0.
    place = torch.searchsorted(cumulative, uniform * total, right=True)[:, 0]
    # Rounding may put the target on the total itself; the last place with weight is meant then.
    last = torch.searchsorted(cumulative, total)[:, 0]
    return torch.minimum(place, last)
