"""What a request may say of the choice of tokens, whatever the route: OpenAI's fields and vLLM's.

Sources: https://platform.openai.com/docs/api-reference/chat,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from raymodel.serve.protocol import Ignored, WireModel
from raymodel.serve.sampling import Form

MOST_TOP = 20  # of alternatives to a token, as OpenAI has it in chats
# OpenAI takes four, vLLM any number; tasks of evaluation harnesses send half a dozen.
_MOST_STOPS = 16


class SamplingRequest(WireModel):
    """What all kinds of generation take."""

    model: str
    """A name that `/v1/models` lists."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; 1 by default."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Choose among the likeliest tokens that together have this probability, of what `top_k` has
    left; 1, everything, by default."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Choose among so many of the likeliest tokens; 0 and -1 are all of them, the default."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Choose among tokens that have at least this share of the likeliest one's probability; 0 by
    default."""
    seed: int | None = None
    """The same seed gives the same answer."""

    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken off the logit of each token that the answer holds already; 0 by default."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken off it once for each time that the answer holds it; 0 by default."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Divides the logits above zero of tokens that stand in the prompt or in the answer, and
    multiplies those below; 1, nothing, by default."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,9}$"}}
    )
    """Token id → what is added to its logit."""

    stop: str | list[str] | None = None
    """Up to sixteen strings before the first of which the answer ends."""
    stop_token_ids: list[int] | None = None
    """Tokens at which it ends, beside the model's own; they have no text."""
    ignore_eos: bool | None = None
    """The model's own end tokens do not end the answer."""
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    """Before so many tokens no end token is chosen and no stop string looked for."""

    stream: bool | None = False
    """Server-sent events."""

    user: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    request_id: Ignored = None
    priority: Ignored = None

    @field_validator("stop", mode="after")
    @classmethod
    def _refuse_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if "" in stops:
            raise ValueError("a stop string has at least one character")
        if len(stops) > _MOST_STOPS:
            raise ValueError(f"{len(stops)} strings are given; give at most {_MOST_STOPS}")
        return stop

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _refuse_words(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for token in bias or {}:
            if not (token.isascii() and token.isdigit()):
                raise ValueError(f"{ascii(token)[:80]} is no token id; `/tokenize` tells those")
        return bias

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as pairs."""
        return tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items())

    @property
    def form(self) -> tuple[str, Form | None]:
        """The field that says what form the answer has, and what it says."""
        raise NotImplementedError

    @property
    def limit(self) -> tuple[str, int | None]:
        """The field that says how long the answer may be, and what it says."""
        raise NotImplementedError

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return 1

    @property
    def num_top(self) -> int | None:
        """Alternatives that are told beside each token; None when no log-probabilities are."""
        return None

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are told."""
        return False
