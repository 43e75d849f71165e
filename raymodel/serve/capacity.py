"""How many requests a replica answers at once, and how long texts may be: what the spec leaves out
follows from the memory and from the model. Pure arithmetic, for `raymodel plan` as for a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raymodel.errors import ClusterError
from raymodel.model.stored_numbers import NUMBER_BYTES
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task

# Answers of a decoder at the same time. SmolLM2-135M on two cores writes 2.4 times as much for 32
# clients with 32 as with 8, and more hardly helps; a GPU has cores for more.
_MOST_ROWS = {"cpu": 32, "cuda": 64}
# Rows of a pass of a model that is called once: on a CPU more take as many times longer.
_ROWS_OF_A_PASS = 8
CACHE_FRAC = {"cpu": 0.5, "cuda": 0.8}
"""Of the memory that the weights leave, for keys and values; the rest is for activations and, on a
CPU, for others."""
UNASKED_TOKENS = 512
"""Of an answer to a request that names no limit: what most answers in chats stay below, and what a
slow CPU, of five tokens a second, writes within the default `timeout`."""
DRAFTED_ROWS = {"cpu": 4, "cuda": 32}
"""Answers that a draft writes for at the same time. On one core five tokens of each row cost 1.1
times what one of each does for one row, 1.4 for 4, and 2 for 8 and 16 (SmolLM2-135M in bf16). A GPU
reads its weights in the time in which it computes some 200 tokens; there it was not measured."""
# How often a draft is mostly right, and how many tokens it writes at most: the more it does, the
# less probable it is that all before the last are right.
_RIGHT_FRAC, _MOST_DRAFT_TOKENS = 0.75, 8
WHOLE_TOKENS = 256
"""Of an answer that comes whole: as many as `Limits` has."""
LEAST_TOKENS = 32
"""Of prompt and answer, that it is worth to start a server for."""
_ROW_TOKENS = 2 * UNASKED_TOKENS  # of prompt and answer, as most are
LEAST_WAIT_S = 0.5
"""That a request may wait wherever nothing else is said: hardly anybody notices it."""
# Of the time that answers take. Where places become free one by one, more than half as many
# requests as there are places only wait: a queue is for what comes unevenly
# (https://sre.google/sre-book/addressing-cascading-failures/, Queue Management). Of passes the next
# one must find as many as it takes.
WAIT_FRAC, _WAIT_FRAC_OF_A_PASS = 0.5, 1.0


def find_rows(spec: ServeSpec, task_name: str, device: str) -> int:
    """Requests that one replica is given at the same time; a smaller memory makes them fewer.

    Args:
        device: `cpu` or `cuda`.
    """
    if spec.batch is not None:
        return spec.batch
    return _MOST_ROWS[device] if get_task(task_name).answers == "stream" else _ROWS_OF_A_PASS


def longest_wait_s(spec: ServeSpec, task_name: str, answer_s: float) -> float:
    """How long a request may have to wait until it is answered; one that would wait longer is
    refused.

    Args:
        answer_s: what an answer takes once it has a place, of late.
    """
    if spec.max_wait is not None:
        return spec.max_wait
    is_stream = get_task(task_name).answers == "stream"
    return max(LEAST_WAIT_S, answer_s * (WAIT_FRAC if is_stream else _WAIT_FRAC_OF_A_PASS))


def key_value_bytes(config: Any, dtype: str) -> int:
    """Of one token of a decoder of the Llama family, in all layers.

    Args:
        config: its configuration.
        dtype: of the numbers.
    """
    heads = config.num_key_value_heads or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * NUMBER_BYTES[dtype])


def find_draft_tokens(asked: int | None, draft_numbers: int, numbers: int) -> int:
    """Tokens that a draft writes in a step: what was asked for; else those with which most tokens
    come in a time, if the draft takes as much less of it as it has fewer numbers: of one with half
    of them one, with a tenth five. (arXiv:2211.17192, theorem 3.8)

    Args:
        asked: what `serve.draft.tokens` says.
        draft_numbers: of the draft's weights.
        numbers: of the model's.
    """
    if asked is not None:
        return asked
    cost = draft_numbers / numbers

    def gain(count: int) -> float:
        made = (1 - _RIGHT_FRAC ** (count + 1)) / (1 - _RIGHT_FRAC)
        return made / (1 + count * cost)

    return max(range(1, _MOST_DRAFT_TOKENS + 1), key=gain)


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """What the keys and values of running requests may take."""

    rows: int
    """Requests at the same time."""
    context_tokens: int
    """The most tokens of prompt and answer together."""
    cache_tokens: int
    """Of all requests together: what a request wants that does not fit, it waits for."""
    budget_bytes: int
    """The most that keys and values may take, with what is unused of their blocks."""
    token_bytes: int

    @property
    def cache_bytes(self) -> int:
        """Of all keys and values."""
        return self.cache_tokens * self.token_bytes


def plan_cache(
    *,
    left_bytes: int,
    token_bytes: int,
    context_tokens: int,
    device: str,
    asked_rows: int | None = None,
    replicas: int = 1,
) -> CachePlan:
    """Shares the memory among requests.

    As many rows as are worth it, while each has room for a usual prompt and answer; of the longest
    texts fewer run at the same time. Only where the memory does not hold one of them, the context
    becomes shorter. Rows that were asked for stay.

    Args:
        left_bytes: beside the weights.
        token_bytes: see `key_value_bytes`.
        context_tokens: of the model.
        device: `cpu` or `cuda`.
        asked_rows: what `serve.batch` says.
        replicas: that share the memory of one machine; of a GPU each has its own.

    Raises:
        ClusterError: the memory holds not even a short text.
    """
    sharing = replicas if device == "cpu" else 1
    affordable = int(max(0, left_bytes) * CACHE_FRAC[device]) // sharing // token_bytes
    if affordable < min(context_tokens, LEAST_TOKENS):
        raise ClusterError(
            f"the memory that is left holds keys and values of {affordable} tokens; free some, or "
            "serve a smaller model"
        )
    usual = min(context_tokens, _ROW_TOKENS)
    rows = asked_rows or min(_MOST_ROWS[device], max(1, affordable // usual))
    cache_tokens = min(affordable, rows * context_tokens)
    return CachePlan(
        rows=rows,
        context_tokens=min(context_tokens, cache_tokens),
        cache_tokens=cache_tokens,
        budget_bytes=affordable * token_bytes,
        token_bytes=token_bytes,
    )


def longest_answer(spec: ServeSpec, context_tokens: int) -> int:
    """What a request may ask for, in tokens."""
    return spec.max_tokens or context_tokens


def unasked_answer(spec: ServeSpec, context_tokens: int) -> int:
    """What a request gets that names no limit, in tokens."""
    return spec.max_tokens or min(context_tokens, UNASKED_TOKENS)
