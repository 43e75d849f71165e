"""Several tokens of an answer in one step: what a draft has written ahead is held against the
model's logits, place by place, as far as they agree.

Where tokens are chosen in a way that can be repeated (the likeliest one, or by a seed), the model
chooses as if it were alone, and the draft was right where it chose the same: so an answer with a
seed is what it is without a draft. All others keep the draft's token by rejection sampling, which
leaves the model's own distribution and takes as many as can be taken (arXiv:2211.17192,
arXiv:2302.01318).

What a request says of its tokens holds at each place, by the tokens before it: penalties, biases,
forms and log-probabilities need no step of their own.

Shapes: N rows, T places of a row, V vocabulary.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from raymodel.serve.answer import Answer, Scored
from raymodel.serve.logits import (
    change_logits,
    choose_tokens,
    draw_tokens,
    keep_or_redraw,
    score_tokens,
    token_probabilities,
)
from raymodel.serve.runner import Made, Tokens
from raymodel.serve.sampling import Sampling

if TYPE_CHECKING:
    from raymodel.serve.form import FormState


@dataclass
class Ahead:
    """An answer with tokens that it has not been given yet."""

    prompt: list[int]
    tokens: list[int]
    sampling: Sampling
    ends: frozenset[int]
    form: FormState | None
    draws: random.Random

    @classmethod
    def of(cls, answer: Answer, *, is_trial: bool = False) -> Ahead:
        """As it is now.

        Args:
            is_trial: what comes leaves no trace in the answer's form, nor in its random numbers.
        """
        sampling = answer.sampling
        # Of the others nobody looks at the tokens.
        tokens = list(answer.tokens) if sampling.changes_logits else []
        form, draws = answer.form, answer.draws
        if is_trial:
            form = None if form is None else form.copy()
            draws = draws if sampling.seed is None else copy.copy(draws)
        return cls(answer.prompt, tokens, sampling, answer.ends, form, draws)

    def go_on(self, token: int) -> None:
        """With a token that was chosen."""
        if self.sampling.changes_logits:
            self.tokens.append(token)
        if self.form is not None:
            self.form.advance(token)


@dataclass
class Proposal:
    """What a draft writes ahead of one answer."""

    tokens: list[int] = field(default_factory=list)
    drawn: list[torch.Tensor] = field(default_factory=list)
    """(V,) of each: the probabilities that it was drawn with; none where choices are repeated."""

    def starts_with(self, token: int, place: int) -> bool:
        """Whether it has this token at a place."""
        return place < len(self.tokens) and self.tokens[place] == token


def repeats(sampling: Sampling) -> bool:
    """Whether a place's token is the same each time that it is chosen."""
    return sampling.temperature == 0 or sampling.seed is not None


def propose_tokens(
    logits_NV: torch.Tensor, answers: Sequence[Ahead], proposals: Sequence[Proposal]
) -> None:
    """Lets proposals go on by a token each.

    Args:
        logits_NV: the draft's.
        answers: trials of them, which go on too.
    """
    logits_NV = change_logits(logits_NV, answers)
    drawn = [row for row, answer in enumerate(answers) if not repeats(answer.sampling)]
    chosen = [row for row in range(len(answers)) if row not in drawn]
    tokens: dict[int, int] = {}
    if chosen:
        some = [answers[row] for row in chosen]
        told = _choose(logits_NV[chosen], some)
        tokens |= zip(chosen, told, strict=True)
    if drawn:
        some = [answers[row] for row in drawn]
        drawn_NV = token_probabilities(logits_NV[drawn], [each.sampling for each in some])
        told = draw_tokens(drawn_NV, [each.draws for each in some])
        tokens |= zip(drawn, told, strict=True)
        for row, drawn_V in zip(drawn, drawn_NV, strict=True):
            proposals[row].drawn.append(drawn_V)
    for row, token in tokens.items():
        proposals[row].tokens.append(token)
        answers[row].go_on(token)


def take_tokens(
    answers: Sequence[Answer], logits_NTV: torch.Tensor, proposals: Sequence[Proposal]
) -> tuple[Tokens, list[int]]:
    """The next tokens of answers: those proposed that the model takes, and one of its own.

    Args:
        answers: N of them.
        logits_NTV: the model's, after each answer's last token and each that is proposed to it.
        proposals: N of them; an empty one gets one token.

    Returns:
        The tokens, and how many of each answer were proposed.
    """
    made: Tokens = []
    ahead = [Ahead.of(answer) for answer in answers]
    num_taken = [0] * len(answers)
    running, place = list(range(len(answers))), 0
    while running:
        is_all = len(running) == len(answers)
        logits_NV = logits_NTV[:, place] if is_all else logits_NTV[running, place]
        tokens = _take(
            logits_NV, [ahead[row] for row in running], [proposals[row] for row in running], place
        )
        going = []
        for row, logits_V, token in zip(running, logits_NV, tokens, strict=True):
            made.append(Made(answers[row], token, _score(answers[row], logits_V, token)))
            ahead[row].go_on(token)
            if proposals[row].starts_with(token, place):
                num_taken[row] += 1
                if token not in ahead[row].ends:
                    going.append(row)
        running, place = going, place + 1
    return made, num_taken


def _take(
    logits_NV: torch.Tensor, answers: Sequence[Ahead], proposals: Sequence[Proposal], place: int
) -> list[int]:
    """The tokens of one place."""
    logits_NV = change_logits(logits_NV, answers)
    held = [row for row, each in enumerate(proposals) if place < len(each.drawn)]
    if not held:
        return _choose(logits_NV, answers)
    others = [row for row in range(len(answers)) if row not in held]
    tokens = dict(
        zip(others, _choose(logits_NV[others], [answers[r] for r in others]), strict=True)
    )
    told = keep_or_redraw(
        token_probabilities(logits_NV[held], [answers[row].sampling for row in held]),
        torch.stack([proposals[row].drawn[place] for row in held]),
        [proposals[row].tokens[place] for row in held],
        [answers[row].draws for row in held],
    )
    tokens |= zip(held, told, strict=True)
    return [tokens[row] for row in range(len(answers))]


def _choose(logits_NV: torch.Tensor, answers: Sequence[Ahead]) -> list[int]:
    if not answers:
        return []
    return choose_tokens(logits_NV, [a.sampling for a in answers], [a.draws for a in answers])


def _score(answer: Answer, logits_V: torch.Tensor, token: int) -> Scored | None:
    num_top = answer.sampling.logprobs
    return None if num_top is None else score_tokens(logits_V[None], [token], num_top)[0]
