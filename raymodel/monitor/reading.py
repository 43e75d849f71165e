"""From a line to a text and its time, or to the reason why it has none."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

from raymodel.monitor.follow import Line
from raymodel.monitor.spec import ReadingSpec
from raymodel.tasks.template import FieldTypeError, RecordError, render

AHEAD_S = 300.0
"""Clocks differ; a text from later than this would move the windows into a time that is not yet."""
_MILLISECONDS_FROM = 1e11  # seconds of the year 5138: a larger number counts milliseconds


class Reading(NamedTuple):
    """A text that is to be classified."""

    text: str
    time_s: float
    """When it was written, in seconds since 1970."""


class UnreadError(ValueError):
    """A line that is no text; the message is the reason that it is counted under."""


def read_line(line: Line, fields: ReadingSpec, now_s: float) -> Reading | None:
    """None of an empty line. Raises UnreadError."""
    if line.raw is None:
        raise UnreadError("longer than max_text")
    try:
        text = line.raw.decode().strip()
    except UnicodeDecodeError:
        raise UnreadError("not UTF-8") from None
    if not text:
        return None
    return read_record(text, fields, now_s) if line.is_record else Reading(text, now_s)


def read_record(text: str, fields: ReadingSpec, now_s: float) -> Reading:
    """Of one JSON object. Raises UnreadError."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadError("not JSON") from None
    if not isinstance(record, dict):
        raise UnreadError("JSON that is no object")
    try:
        found = render(fields.text, record).strip()
    except RecordError as error:
        raise UnreadError(error.reason) from None
    except FieldTypeError:
        raise UnreadError("a field that holds no text") from None
    if not found:
        raise UnreadError("an empty text")
    time_s = now_s if fields.time is None else time_of(record.get(fields.time), now_s)
    return Reading(found, time_s)


def time_of(value: Any, now_s: float) -> float:
    """Seconds since 1970, of such a number (or of milliseconds) or of ISO 8601, which is UTC where
    it says nothing else. Raises UnreadError."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            time_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        else:
            time_s = math.nan if value is None or isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        time_s = math.nan
    if time_s >= _MILLISECONDS_FROM:
        time_s /= 1000
    if not math.isfinite(time_s) or time_s < 0:
        raise UnreadError("without a time")
    if time_s > now_s + AHEAD_S:
        raise UnreadError("a time that is not yet")
    return time_s
