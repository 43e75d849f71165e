"""Which runs of tokens an encoder–decoder has to write again, drawn anew for a row at every step.

As for T5 (arXiv:1910.10683, sections 3.1.4 and 3.3.4): of a row 15 % of the tokens are taken out,
in runs of 3 on average. What the encoder reads has a sentinel, another one for each run, in their
places; what the decoder writes is each sentinel with the tokens that it stands for.

Shapes: T tokens of a row, S of what is read, U of what is to be written, N runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raymodel.chance import Chance

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

SHARE = 0.15
"""Of the tokens that are taken out, where the job says nothing."""
MEAN_SPAN = 3.0
"""Tokens of a run on average, where the job says nothing."""


def count_spans(tokens: int, share: float = SHARE, mean_span: float = MEAN_SPAN) -> tuple[int, int]:
    """How many of so many tokens are taken out, and in how many runs.

    One at least in one run, and never all: between two runs there is a token that stays. Both are
    rounded as T5 rounds, so that rows of one length give texts of one length.
    """
    if tokens < 2:
        return 0, 0
    hidden = min(max(round(tokens * share), 1), tokens - 1)
    spans = min(max(round(hidden / mean_span), 1), hidden, tokens - hidden + 1)
    return hidden, spans


def corrupted_lengths(
    tokens: int, share: float = SHARE, mean_span: float = MEAN_SPAN
) -> tuple[int, int]:
    """S and U of a row of so many tokens, none of them special; U with the end token."""
    hidden, spans = count_spans(tokens, share, mean_span)
    return tokens - hidden + spans, hidden + spans + 1


def corrupt_row(
    ids_T: Ids,
    special_T: Flags,
    chance: Chance,
    *,
    sentinels: Ids,
    end: int,
    share: float = SHARE,
    mean_span: float = MEAN_SPAN,
) -> tuple[Ids, Ids]:
    """Takes runs of tokens out of one row.

    Special tokens, such as the end of a document, draw no number and always stay. A run with one in
    its midst is two runs, with a sentinel each. Runs beyond the number of the sentinels stay.

    Args:
        ids_T: the real tokens, without padding.
        special_T: those that are never taken out.
        chance: of this row at this step (`Draw.of_row`).
        sentinels: stand for the runs, in this order.
        end: closes what is to be written.
        share: of the tokens that may be taken out.
        mean_span: tokens of a run, on average.

    Returns:
        What is read (S,), and what is to be written (U,): nothing where nothing can be taken out.
    """
    places = np.flatnonzero(~special_T)
    hidden, spans = count_spans(len(places), share, mean_span)
    if not hidden:
        return ids_T.astype(np.int64), np.empty(0, dtype=np.int64)
    is_hidden_T = np.zeros(len(ids_T), dtype=np.bool_)
    is_hidden_T[places] = _choose(len(places), hidden, spans, chance)
    begins_T = is_hidden_T & ~np.concatenate(([False], is_hidden_T[:-1]))
    span_T = np.cumsum(begins_T)  # of a hidden token the number of its run, from 1
    is_hidden_T &= span_T <= len(sentinels)
    begins_T &= is_hidden_T
    begins = np.flatnonzero(begins_T)
    read = ids_T.astype(np.int64)
    read[begins] = sentinels[: len(begins)]
    written = np.insert(
        ids_T[is_hidden_T].astype(np.int64),
        np.flatnonzero(begins_T[is_hidden_T]),
        sentinels[: len(begins)],
    )
    return read[~is_hidden_T | begins_T], np.append(written, end)


def _choose(tokens: int, hidden: int, spans: int, chance: Chance) -> Flags:
    """Flags on so many hidden tokens in so many runs. (tokens,)

    Before the first run and after the last there may be nothing, so that no place of a row is more
    likely to be hidden than others by a rule. (T5's own code hides the last token always.)
    """
    kept = _parted(tokens - hidden + 2, spans + 1, chance)
    kept[[0, -1]] -= 1
    lengths = np.zeros(2 * spans + 1, dtype=np.int64)
    lengths[::2], lengths[1::2] = kept, _parted(hidden, spans, chance)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _parted(total: int, parts: int, chance: Chance) -> Ids:
    """A whole number as a sum of so many, each at least 1; every way is as likely. (parts,)"""
    places = np.argsort(chance.uniform(total - 1), kind="stable")[: parts - 1] + 1
    edges = np.concatenate(([0], np.sort(places), [total]))
    return np.diff(edges).astype(np.int64)
