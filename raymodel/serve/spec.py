"""`serve:` how the best model answers over HTTP."""

from __future__ import annotations

from pydantic import Field, model_validator

from raymodel.data.spec import MAX_ROW_TOKENS
from raymodel.spec.base import Spec, Text
from raymodel.spec.quantity import Bytes, Count, Seconds
from raymodel.spec.show import show


class ReplicasSpec(Spec):
    """How many copies of the model answer."""

    min: int = Field(default=1, ge=1, le=10_000)
    """Replicas that always run."""
    max: int = Field(default=1, ge=1, le=10_000)
    """Replicas under load."""

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasSpec:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self


class ServeSpec(Spec):
    """One HTTP application for the promoted model."""

    model: Text | None = None
    """A Hugging Face folder, `python:PACKAGE/path`, or `RUN/STAGE`; by default this job's newest
    model, once its gates are met."""
    name: Text | None = None
    """The model's name in the API; by default the job's name."""
    host: Text = "127.0.0.1"
    """Address to listen on. Anything but loopback needs a token."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    token_env: Text | None = None
    """Name of the environment variable that holds the bearer token clients must send."""
    replicas: ReplicasSpec = ReplicasSpec()
    """Copies of the model."""
    batch: int = Field(default=8, ge=1, le=100_000)
    """Requests that one replica answers at the same time."""
    queue: int = Field(default=64, ge=1, le=1_000_000)
    """Requests that wait for a place; more are refused with 503 and Retry-After."""
    max_tokens: Count = Field(default=256, ge=1, le=MAX_ROW_TOKENS)
    """Longest answer of one request, in tokens."""
    max_body: Bytes = Field(default="32MiB", ge=2**10, le=2**30)  # type: ignore[assignment]
    """Longest body of one request, as it is sent; more is refused with 413 before it is read. An
    image or a sound in base64 takes a third more than its file."""
    beams: int = Field(default=1, ge=1, le=64)
    """Of answers that come whole (`seq2seq_lm`), as in `evaluate`; 1 is greedy."""
    timeout: Seconds = Field(default="120s", gt=0)  # type: ignore[assignment]
    """A request that takes longer is ended with 504."""

    grace: Seconds = Field(default="30s", ge=0, le=3600)  # type: ignore[assignment]
    """How long answers under way may still take when the server is told to end (Ctrl-C, SIGTERM);
    then a stream is closed by an error event. Requests that wait are refused at once."""

    @model_validator(mode="after")
    def _guarded(self) -> ServeSpec:
        if self.host not in ("127.0.0.1", "localhost", "::1") and self.token_env is None:
            raise ValueError(
                f"host {show(self.host)} can be reached from outside; set `token_env` to the name "
                "of the environment variable with the bearer token, or listen on 127.0.0.1"
            )
        return self
