"""What a gate counts, in Prometheus' form.

Counted at the gate, so that what was refused and what a replica took with it are in it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from raymodel.serve.flow import Filtered

CONTENT_TYPE = CONTENT_TYPE_LATEST
_OTHER = "other"  # what nobody was answered at: strangers could make a series of each path
_ANSWERED = 200
_WAIT_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_TOKEN_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Metrics:
    """Counters of one gate.

    Args:
        model: its name, a label of all.
        num_waiting, num_running: requests now.
    """

    def __init__(
        self, model: str, num_waiting: Callable[[], int], num_running: Callable[[], int]
    ) -> None:
        self._model, self._registry = model, CollectorRegistry()
        self._known: set[str] = set()
        given: dict[str, Any] = {"registry": self._registry, "namespace": "raymodel"}
        self._requests = Counter(
            "requests", "Requests by path and status.", ("model", "path", "status"), **given
        )
        self._tokens = Counter(
            "tokens", "Tokens that were read and written, and those that a draft wrote ahead.",
            ("model", "kind"), **given,
        )  # fmt: skip
        self._answers = Counter(
            "answers", "Requests by the version that answered them.",
            ("model", "version", "status"), **given,
        )  # fmt: skip
        self._filtered = Counter(
            "filtered", "What filters found in what was asked, and in what was answered.",
            ("model", "filter", "side", "action", "kind"), **given,
        )  # fmt: skip
        self._took = Histogram(
            "answer_seconds",
            "From a request to the end of its answer, by the version that gave it.",
            ("model", "version"), buckets=_WAIT_S, **given,
        )  # fmt: skip
        self._first = Histogram(
            "time_to_first_token_seconds",
            "From a request to the first token of its answer; where it comes whole, to its begin.",
            ("model",), buckets=_WAIT_S, **given,
        )  # fmt: skip
        self._each = Histogram(
            "time_per_token_seconds",
            "Between two tokens of an answer, in the mean of one.",
            ("model",), buckets=_TOKEN_S, **given,
        )  # fmt: skip
        for name, text, count in (
            ("requests_waiting", "Requests that the model has no place for yet.", num_waiting),
            ("requests_running", "Requests that it has one for.", num_running),
        ):
            Gauge(name, text, ("model",), **given).labels(model).set_function(count)

    def count(self, path: str, status: int) -> None:
        """A request that is done; a status of 0 was never answered."""
        if status == _ANSWERED:
            self._known.add(path)
        named = path if path in self._known else _OTHER
        self._requests.labels(self._model, named, str(status or "none")).inc()

    def count_version(self, version: str, status: int, took_s: float) -> None:
        """A request that a version of the model had."""
        self._answers.labels(self._model, version, str(status or "none")).inc()
        if status == _ANSWERED:
            self._took.labels(self._model, version).observe(took_s)

    def count_filtered(self, found: Filtered, count: int) -> None:
        """Something that a filter found so many times."""
        self._filtered.labels(self._model, *found).inc(count)

    def measure(
        self,
        first_s: float,
        rest_s: float,
        prompt_tokens: int,
        completion_tokens: int,
        drafted: int = 0,
        accepted: int = 0,
    ) -> None:
        """An answer that is whole.

        Args:
            first_s: until its first token.
            rest_s: from then to its end.
            drafted: tokens that a draft wrote ahead of it.
            accepted: those of them that the model took.
        """
        self._first.labels(self._model).observe(first_s)
        self._tokens.labels(self._model, "prompt").inc(prompt_tokens)
        self._tokens.labels(self._model, "completion").inc(completion_tokens)
        if drafted:
            self._tokens.labels(self._model, "drafted").inc(drafted)
            self._tokens.labels(self._model, "accepted").inc(accepted)
        if completion_tokens > 1:
            self._each.labels(self._model).observe(rest_s / (completion_tokens - 1))

    def text(self) -> bytes:
        """All of it."""
        return bytes(generate_latest(self._registry))
