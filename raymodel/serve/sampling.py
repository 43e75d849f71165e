"""How one request's tokens are chosen, and when its answer ends."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple


class Form(NamedTuple):
    """What an answer must be."""

    kind: Literal["json", "regex", "choice", "grammar"]
    text: str
    """The schema as JSON, the expression, a list of texts as JSON, or a grammar as llguidance
    writes it."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a request says of its answer.

    Before a token is chosen, the model's logits are changed in this order: the bias, the tokens
    that may not come yet, the repetition penalty, the other penalties, the form. From what is left
    comes, at temperature 0, the most likely token; else, by the probabilities at the temperature,
    one of those that `top_k`, then `top_p` of these, and `min_p` keep. It is transformers' order.
    """

    max_tokens: int
    """Longest answer; of 0 tokens when only the prompt is looked at."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together have this probability (arXiv:1904.09751)."""
    top_k: int = 0
    """Choose among so many of the likeliest tokens; 0 among all."""
    min_p: float = 0.0
    """Choose among tokens of at least this share of the likeliest one's probability
    (arXiv:2407.01082)."""
    seed: int | None = None
    """The same seed, prompt and model give the same answer, whatever else runs; None is random."""

    presence_penalty: float = 0.0
    """Taken off the logit of each token that the answer holds already."""
    frequency_penalty: float = 0.0
    """Taken off it once for each time that it does."""
    repetition_penalty: float = 1.0
    """Divides the logit of each token of prompt and answer, or multiplies it where it is negative
    (arXiv:1909.05858)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of token and what is added to its logit."""
    form: Form | None = None
    """Tokens with which the answer would no longer have this form cannot be chosen."""

    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    stop_token_ids: frozenset[int] = frozenset()
    """It ends at these tokens, as at the model's own end tokens."""
    ignore_eos: bool = False
    """The model's own end tokens do not end it."""
    min_tokens: int = 0
    """Before so many tokens nothing but the length ends it: end tokens cannot be chosen, and stop
    strings are not looked for."""

    shown: frozenset[int] = frozenset()
    """Special tokens that have their text in the answer, as all others have none."""

    logprobs: int | None = None
    """Log-probabilities are told, with so many of the likeliest tokens beside each; None tells
    none. They are those of the model, before anything above has changed them."""
    prompt_logprobs: bool = False
    """They are told of the prompt's tokens too."""

    def choices(self, count: int) -> list[Sampling]:
        """Of several answers to one prompt; a seed goes up by one from each to the next, so that
        each can be had alone."""
        if self.seed is None:
            return [self] * count
        return [replace(self, seed=self.seed + index) for index in range(count)]

    @property
    def changes_logits(self) -> bool:
        """Whether tokens are chosen from other logits than the model's."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1
            or self.logit_bias
            or self.min_tokens
            or self.form
        )

    @property
    def cuts(self) -> bool:
        """Whether unlikely tokens are never chosen."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    def draws(self) -> random.Random:
        """The request's own source of numbers, on the host: it is the same on every device."""
        return random.Random(self.seed)
