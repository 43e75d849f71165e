"""A question and a context that is too long for one sequence, as windows that overlap.

Shapes: T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRIDE = 128
"""Tokens that two windows share, as in BERT's fine-tuning on SQuAD (arXiv:1810.04805), so that an
answer that one cuts is whole in the other; half of the room for the context where that is less."""
MAX_ANSWER_TOKENS = 30
"""Of an answer, as there."""


@dataclass(frozen=True)
class Window:
    """A question and a piece of its context."""

    input_ids: list[int]
    first: int
    """The place of the first token of the context."""
    offsets: list[tuple[int, int]]
    """Of each token of the context: its characters, from … to before."""

    def find(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and last token of characters of the context; None where not all are here."""
        if start < self.offsets[0][0] or end > self.offsets[-1][1]:
            return None
        inside = [i for i, (a, b) in enumerate(self.offsets) if a < end and b > start]
        return (self.first + inside[0], self.first + inside[-1]) if inside else None

    def margin(self, start: int, end: int) -> int:
        """Characters of the context beside a piece of it, on the side that has fewer."""
        return min(start - self.offsets[0][0], self.offsets[-1][1] - end)


def windows_of(
    tokenizer: Any, question: str, context: str, size: int | None
) -> tuple[list[Window], bool]:
    """The windows in their order, and whether the question lost its end: it gets half at most.

    Args:
        tokenizer: a fast one, with a form for pairs.
        size: tokens of a window; None for one that holds all.

    Raises:
        ValueError: the size leaves no room.
    """
    is_cut, options = False, dict[str, Any]()
    if size is not None:
        special = tokenizer.num_special_tokens_to_add(pair=True)
        most = (size - special) // 2
        if most < 1:
            raise ValueError(
                f"max_length {size}: the tokenizer adds {special} special tokens to a question and "
                "its context, and each needs room for a token beside them; raise it"
            )
        asked = tokenizer(
            question, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        is_cut = len(asked["input_ids"]) > most
        if is_cut:
            question = question[: asked["offset_mapping"][most - 1][1]]
        room = size - special - min(len(asked["input_ids"]), most)
        options = {
            "truncation": "only_second",
            "max_length": size,
            "stride": min(STRIDE, room // 2),
            "return_overflowing_tokens": True,
        }
    encoded = tokenizer(
        [question], [context], return_offsets_mapping=True, verbose=False, **options
    )
    return list(_windows(encoded)), is_cut


def _windows(encoded: Any) -> Iterator[Window]:
    for index, ids in enumerate(encoded["input_ids"]):
        places = [i for i, number in enumerate(encoded.sequence_ids(index)) if number == 1]
        if places:
            offsets = encoded["offset_mapping"][index]
            yield Window(list(ids), places[0], [tuple(offsets[place]) for place in places])


@dataclass(frozen=True)
class Found:
    """The best piece of one window, and how it compares with no answer."""

    span: tuple[int, int]
    """Characters of the context."""
    logit: float
    """Of where it begins and where it ends together; comparable between windows."""
    prob: float
    """In its window."""
    null_logit: float
    """The same of no answer."""
    null_prob: float


def find_answer(
    window: Window, start_T: NDArray[np.float32], end_T: NDArray[np.float32], null: int
) -> Found:
    """What the logits of a window say.

    Args:
        null: the place that stands for no answer.
    """
    first, stop = window.first, window.first + len(window.offsets)
    starts, ends = start_T[first:stop], end_T[first:stop]
    sums = starts[:, None] + ends[None, :]
    possible = np.triu(np.tril(np.ones_like(sums, dtype=bool), MAX_ANSWER_TOKENS - 1))
    best = int(np.where(possible, sums, -np.inf).argmax())
    a, b = divmod(best, len(ends))
    scale = sum(_log_sum([*each[first:stop], each[null]]) for each in (start_T, end_T))
    logit, null_logit = float(sums[a, b]), float(start_T[null] + end_T[null])
    return Found(
        span=(window.offsets[a][0], window.offsets[b][1]),
        logit=logit,
        prob=float(np.exp(logit - scale)),
        null_logit=null_logit,
        null_prob=float(np.exp(null_logit - scale)),
    )


def _log_sum(values: Any) -> float:
    return float(np.logaddexp.reduce(np.asarray(values, np.float64)))
