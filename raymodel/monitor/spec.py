"""`monitor:` texts as they come, what a served classifier says of them, and when that is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raymodel.serve.spec import ListenSpec
from raymodel.spec.base import DISTINCT, Many, Spec, Text
from raymodel.spec.quantity import Bytes, Fraction, Seconds, plain_number
from raymodel.spec.show import show

BUCKETS = 10
"""By which a window moves: a tenth of its length."""
MOST_WINDOWS = 200  # in a baseline: what is kept of a rule stays below 2,000 buckets


class ReadingSpec(Spec):
    """What is taken of a record of JSON Lines."""

    text: Text = "{text}"
    """The text, as a template over the fields of the record."""
    time: Text | None = None
    """The field that says when it was written: ISO 8601, or seconds since 1970. By default a text
    is of the time when it is read, which makes one hour of what was written in a week."""


class FollowSpec(Spec):
    """Texts on disk, as they come."""

    path: Text
    """A file, followed as it grows and when it is rotated; or a folder, each of whose files is
    (`.txt`, `.log`, `.jsonl`, `.ndjson`). One that is not there yet is waited for."""
    format: Literal["auto", "lines", "jsonl"] = "auto"
    """`lines` has a text a line, `jsonl` a record a line; `auto` goes by the end of the name."""
    fields: ReadingSpec = ReadingSpec()
    """Of records."""


class InboxSpec(ListenSpec):
    """Texts that others send: `POST /texts`, answered when they are safe on disk."""

    port: int = Field(default=8100, ge=1, le=65535)
    """Port to listen on."""
    max_waiting: int = Field(default=100_000, ge=1, le=10_000_000)
    """Texts that wait on disk for the classifier; more are refused with 503 and Retry-After."""


class AlertSpec(Spec):
    """When a class has become more frequent.

    Its share of the texts in the window is held against its share in the baseline before it, by the
    z of two proportions: z = (p₁ − p₀) / √(p (1 − p) (1/n₁ + 1/n₀)), where p is the share of both
    together. Each text that comes is a look.
    """

    labels: Annotated[Many[Text], DISTINCT, Field(min_length=1)]
    """The classes whose share may rise, such as [negative]; several count as one."""
    window: Seconds = Field(default="10min", ge=1, le=30 * 86_400)  # type: ignore[assignment]
    """How much time is looked at. It moves on by tenths."""
    baseline: Seconds = Field(default="1d", ge=1, le=365 * 86_400)  # type: ignore[assignment]
    """How much time before it says what is usual; at most 200 windows."""
    min_count: int = Field(default=50, ge=5, le=1_000_000)
    """Fewer texts than that, in the window or in the baseline, say nothing."""
    rise: Fraction = Field(default=0.1, gt=0, lt=1)
    """An alert needs a share that is higher by so much: from 20 % to 30 % with 10 %."""
    z: float = Field(default=4.5, ge=1, le=20)
    """And a rise of so many standard errors. Each text that comes is a look, so that it takes more
    than the 2 or 3 of a single one: of 1,000 windows of 50 to 1,000 texts chance alone raises at
    most 2 alerts with 4.5, and 4 to 23 with 3 (simulated, shares of 5 to 50 %, rise 10 %)."""
    clear: Fraction = Field(default=0.5, ge=0, lt=1)
    """The alert is over when the share is less than this part of `rise` above what was usual when
    it was raised, or has stayed high for a whole baseline; until then it is not raised again."""

    @model_validator(mode="after")
    def _comparable(self) -> AlertSpec:
        windows = self.baseline / self.window
        if not 1 <= windows <= MOST_WINDOWS:
            seen = f"{plain_number(self.baseline)}s is {windows:.3g} windows"
            raise ValueError(
                f"baseline of {seen}; it takes from 1 to {MOST_WINDOWS} of them, as what is usual "
                "is kept by tenths of a window"
            )
        return self


class WebhookSpec(Spec):
    """Where alerts are posted, as JSON whose `text` says it in a sentence (as Slack takes it)."""

    url_env: Text
    """Name of the environment variable with the URL, which is a secret."""
    tries: int = Field(default=8, ge=1, le=20)
    """How often one alert is tried, after 2, 4, 8 … seconds, four minutes in all with 8. One that
    was not taken then is told in the log and in the terminal."""
    timeout: Seconds = Field(default="10s", gt=0, le=60)  # type: ignore[assignment]
    """Of one try."""


class MonitorSpec(Spec):
    """Texts → a served classifier → windows → alerts. `raymodel monitor JOB` goes on until Ctrl-C,
    `raymodel run JOB` beside what it serves."""

    follow: Annotated[Many[FollowSpec], Field(max_length=100)] = ()
    """Folders and files with texts."""
    http: InboxSpec | None = None
    """Texts that are sent."""
    alerts: Annotated[Many[AlertSpec], Field(min_length=1, max_length=100)]
    """Each has windows of its own."""
    webhook: WebhookSpec | None = None
    """Who is told, beside the log."""
    folder: Text | None = None
    """A local folder for what was read so far (`state.sqlite`) and `alerts.jsonl`; by default
    `monitor` in the folder of the run."""
    url: Text | None = None
    """A server whose classifier is asked; by default the one of `serve`."""
    model: Text | None = None
    """Which of its models, where it has several."""
    token_env: Text = "RAYMODEL_TOKEN"
    """Name of the environment variable with its token, where it wants one."""
    batch: int = Field(default=8, ge=1, le=1_000)
    """Texts in one request."""
    max_text: Bytes = Field(default="64KiB", ge=1_000, le=2**24)  # type: ignore[assignment]
    """A line that is longer is left out and counted. Of a text that the model cannot hold, it reads
    the beginning."""

    @model_validator(mode="after")
    def _has_texts(self) -> MonitorSpec:
        if not self.follow and self.http is None:
            raise ValueError("nothing is monitored; add `follow`, or `http: {}`")
        paths = [each.path for each in self.follow]
        for i, path in enumerate(paths):
            if path in paths[:i]:
                raise ValueError(f"follow names {show(path)} twice; keep one")
        return self
