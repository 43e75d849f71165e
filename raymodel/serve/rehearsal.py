"""Batches as requests would bring them, made of the one request that any model of a task can be
asked: short and long, one alone and many together."""

from __future__ import annotations

import base64
import io
import time
import wave
from collections.abc import Callable, Mapping
from typing import Any

from raymodel.serve.refusal import Refusal
from raymodel.tasks.base import Features
from raymodel.tasks.fields import Field, Kind

LONG_TOKENS = 128
"""Of a long example, as measured; what people classify and embed is a paragraph."""
_LONG_TIMES = 16  # the example, where tokens do not tell: of half a second of sound it makes 8 s
_MOST_ROWS = 32  # beyond it a row costs no less
_LONGEST_S = 2.0  # that the model may take for the longest example, or for many rows

Row = Callable[[Mapping[str, Any]], Features]
"""Makes the row of a request; raises Refusal where there can be none."""


class Rehearsal:
    """The examples of one model.

    Args:
        request: that any model of its task can be asked, role → value.
        fields: what a request may have.
        row: makes rows; cuts what is too long.
        count_tokens: of rows; 0 where rows hold none.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        fields: Mapping[str, Field],
        row: Row,
        count_tokens: Callable[[list[Features]], int],
    ) -> None:
        self._request, self._fields, self._row = dict(request), fields, row
        self._count_tokens = count_tokens
        self.short = row(request)

    def batches(
        self, answer: Callable[[list[Features]], object], *, most_rows: int, most_tokens: int
    ) -> list[list[Features]]:
        """What to try, the smallest first.

        Args:
            answer: has the model answer rows; how long it takes says how long the longest may be,
                and how many rows.
            most_rows: in a batch.
            most_tokens: that the model takes.
        """
        long = self.of_tokens(min(LONG_TOKENS, most_tokens))
        took_s = min(_time(lambda: answer([long])) for _ in range(3))
        made = [[self.short], *([row] for row in self._with_optional()), [long]]
        if num_tokens := self._count_tokens([long]):
            affordable = int(num_tokens * _LONGEST_S / max(took_s, 1e-9))
            made.append([self.of_tokens(min(most_tokens, affordable))])
        # Together, so that what must not be looked at of a short one is among what is compared.
        num_rows = min(most_rows, _MOST_ROWS, max(2, int(_LONGEST_S / max(took_s, 1e-9))))
        made.append([long if place % 2 == 0 else self.short for place in range(num_rows)])
        return made

    def of_tokens(self, num_tokens: int) -> Features:
        """A row of so many tokens, or nearly; where rows have none, one that is as much longer."""
        times = _LONG_TIMES
        if by_one := self._count_tokens([self.short]):
            twice = self._count_tokens([self._try(2) or self.short])
            times = 1 + (num_tokens - by_one) // max(1, twice - by_one)
        while times > 1:
            row = self._try(times)
            if row is not None and self._count_tokens([row]) <= num_tokens:
                return row
            times = times * 3 // 4
        return self.short

    def _try(self, times: int) -> Features | None:
        try:
            return self._row(self._longer(times))
        except Refusal:  # longer than the task takes
            return None

    def _longer(self, times: int) -> dict[str, Any]:
        return {
            role: longer(value, self._fields[role].kind, times)
            for role, value in self._request.items()
        }

    def _with_optional(self) -> list[Features]:
        """A row that has what a request may also have, such as a second text: models may then be
        called with more."""
        by_kind = {self._fields[role].kind: value for role, value in self._request.items()}
        more = {
            role: by_kind[field.kind]
            for role, field in self._fields.items()
            if role not in self._request and field.kind in by_kind
        }
        try:
            return [self._row(self._request | more)] if more else []
        except Refusal:
            return []


def _time(call: Callable[[], object]) -> float:
    start_s = time.monotonic()
    call()
    return time.monotonic() - start_s


def longer(value: Any, kind: Kind, times: int) -> Any:
    """A value of a request so many times one after the other; an image as it is, as its size is
    the model's."""
    if kind == "text":
        return " ".join([value] * times)
    if kind in ("texts", "words"):
        return list(value) * times
    return _longer_clip(value, times) if kind == "audio" else value


def _longer_clip(encoded: str, times: int) -> str:
    stream = io.BytesIO()
    with wave.open(io.BytesIO(base64.b64decode(encoded))) as clip, wave.open(stream, "wb") as made:
        made.setparams(clip.getparams())
        made.writeframes(clip.readframes(clip.getnframes()) * times)
    return base64.b64encode(stream.getvalue()).decode()
