"""Refusals: what a client did wrong, or what the server cannot do now, as OpenAI's error shape."""

from __future__ import annotations

from typing import Any

STARTING_RETRY_S = 5  # a small model is loaded again by then; for a large one it is a first guess
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "internal_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Refusal(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: the value seen, the rule, and the fix.
        param: the field that is wrong.
        code: a word for programs, such as `model_not_found`.
        retry_after_s: when to try again.
        allow: the methods of a path that was asked with another one.
        closes: the client should not use this connection again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.closes = closes

    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        # A client's own word may be half of a surrogate pair, which no response can hold.
        message, param = (
            text and text.encode(errors="replace").decode() for text in (self.message, self.param)
        )
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """`Retry-After`, `WWW-Authenticate`, `Allow` and `Connection` where they belong."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.closes:
            headers["Connection"] = "close"
        return headers


def too_long(num_tokens: int, limit: int, param: str) -> Refusal:
    """400 for an input that the model cannot hold."""
    return Refusal(
        400,
        f"{param} holds {num_tokens} tokens; this model takes at most {limit}. Shorten it",
        param=param,
        code="context_length_exceeded",
    )


def too_many_characters(num_chars: int, most: int, limit: int, param: str) -> Refusal:
    """400 for a text that is longer than any that the model can hold, before it is tokenised."""
    return Refusal(
        400,
        f"the {param} has {num_chars:,} characters; this model takes at most {limit:,} tokens, and "
        f"no text of more than {most:,} characters is looked at. Shorten it",
        param=param,
        code="context_length_exceeded",
    )


def queue_full(num_waiting: int, retry_after_s: int) -> Refusal:
    """503 for a request that finds no place to wait."""
    return Refusal(
        503,
        f"{num_waiting} requests are waiting and the queue is full; try again when Retry-After "
        "says, or raise serve.queue or serve.replicas",
        code="queue_full",
        retry_after_s=retry_after_s,
    )


def wait_too_long(wait_s: float, longest_s: float, retry_after_s: int) -> Refusal:
    """503 for a request that would find its place too late."""
    return Refusal(
        503,
        f"a request that comes now waits about {wait_s:.1f} s for a place, and {longest_s:.1f} s "
        "is the longest; try again when Retry-After says, or raise serve.max_wait or "
        "serve.replicas",
        code="queue_full",
        retry_after_s=retry_after_s,
    )


def failed(error: Exception) -> Refusal:
    """500 for what nobody foresaw."""
    return Refusal(500, f"the server failed with {type(error).__name__}; its log has more")


def starting(why: str) -> Refusal:
    """503 while no replica can answer."""
    return Refusal(
        503,
        f"{why}; another is started, so try again when Retry-After says",
        code="starting",
        retry_after_s=STARTING_RETRY_S,
    )


def going_down() -> Refusal:
    """503 while the server ends."""
    return Refusal(
        503,
        "the server is going down; ask another, or this one when Retry-After says",
        code="draining",
        retry_after_s=STARTING_RETRY_S,
        closes=True,
    )


def wrong_method(method: str, path: str, allow: str) -> Refusal:
    """405 for a path that takes other methods."""
    seen = f"{ascii(method)[1:-1]} {ascii(path)[1:-1]}"
    message = f"{seen} is not answered; this path takes {allow}"
    return Refusal(405, message, code="method_not_allowed", allow=allow)


def timed_out(timeout_s: float) -> Refusal:
    """504 for an answer that takes too long."""
    return Refusal(
        504,
        f"no complete answer within {timeout_s:g} s; ask for fewer tokens, or raise serve.timeout",
        code="timeout",
    )
