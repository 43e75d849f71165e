"""From a request's fields to what the engine is asked: limits of the server, ids of the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raymodel.serve.refusal import Refusal, too_long
from raymodel.serve.sampling import Form, Sampling
from raymodel.serve.sampling_protocol import SamplingRequest


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What requests may ask of one model.

    Args:
        context_tokens: of prompt and answer together.
        max_tokens: longest answer.
        unasked_tokens: longest answer to a request that names no limit.
        vocab_size: rows of its output layer.
    """

    context_tokens: int
    max_tokens: int
    unasked_tokens: int
    vocab_size: int

    def sampling(
        self,
        body: SamplingRequest,
        num_prompt_tokens: int,
        stops: tuple[str, ...] = (),
        param: str = "prompt",
        form: tuple[str, Form] | None = None,
    ) -> Sampling:
        """How the answer to one prompt is made.

        Args:
            param: the field that the prompt is made of.
            stops: strings before which it ends, beside those of the request.
            form: the field that asks for a form of the answer, and the form, where it is not one of
                those that the request has for this.

        Raises:
            Refusal: 400 for what this model or this server cannot do.
        """
        max_tokens = self._max_tokens(body, num_prompt_tokens, param)
        min_tokens = body.min_tokens or 0
        if min_tokens > max_tokens:
            raise Refusal(
                400,
                f"min_tokens is {min_tokens} and the answer has at most {max_tokens}; give at most "
                "as many",
                param="min_tokens",
            )
        name, wanted = form or body.form
        if wanted is not None and (body.ignore_eos or min_tokens):
            raise Refusal(
                400,
                f"{name} ends an answer that is complete; leave ignore_eos and min_tokens out",
                param=name,
            )
        self.check_tokens(body.stop_token_ids or (), "stop_token_ids")
        self.check_tokens((token for token, _ in body.biases), "logit_bias")
        return Sampling(
            max_tokens=max_tokens,
            temperature=_given(body.temperature, 1.0),
            top_p=_given(body.top_p, 1.0),
            top_k=self._top_k(body.top_k or 0),
            min_p=_given(body.min_p, 0.0),
            seed=body.seed,
            presence_penalty=_given(body.presence_penalty, 0.0),
            frequency_penalty=_given(body.frequency_penalty, 0.0),
            repetition_penalty=_given(body.repetition_penalty, 1.0),
            logit_bias=body.biases,
            form=wanted,
            stop=body.stops + stops,
            stop_token_ids=frozenset(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            min_tokens=min_tokens,
            logprobs=body.num_top,
            prompt_logprobs=body.scores_prompt,
        )

    def check_tokens(self, tokens: Iterable[int], param: str) -> None:
        """Raises Refusal (400) for an id that the model does not have."""
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                raise Refusal(
                    400,
                    f"{param} holds the token id {token}; this model's ids go from 0 to "
                    f"{self.vocab_size - 1}",
                    param=param,
                )

    def _top_k(self, asked: int) -> int:
        """All are 0, by whatever number they are asked for."""
        return asked if 0 < asked < self.vocab_size else 0

    def _max_tokens(self, body: SamplingRequest, num_prompt_tokens: int, param: str) -> int:
        context = self.context_tokens
        name, asked = body.limit
        # One token at least has its place behind the prompt, unless none is asked for.
        if num_prompt_tokens > (context if asked == 0 else context - 1):
            raise too_long(num_prompt_tokens, context - (asked != 0), param)
        if asked is not None and asked > self.max_tokens:
            raise Refusal(
                400,
                f"{name} is {asked}; this server writes at most {self.max_tokens} "
                "(serve.max_tokens)",
                param=name,
            )
        room = context - num_prompt_tokens
        if asked is not None and asked > room:
            raise Refusal(
                400,
                f"{param} holds {num_prompt_tokens} tokens and {name} is {asked}; together they "
                f"may be at most {context}. Shorten it, or ask for at most {room}",
                param=name,
                code="context_length_exceeded",
            )
        return min(room, self.unasked_tokens) if asked is None else asked


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
