"""Which of the inputs that wait are computed together."""

from __future__ import annotations

from collections.abc import Sequence

PASS_TOKENS = 64
"""What a batch of its own costs, in tokens, where it was not measured."""
_PADDING_SHARE = 1 / 8  # of the tokens: batches of a few rows each cost more than that


def next_batch(lengths: Sequence[int], most: int, pass_tokens: int = PASS_TOKENS) -> list[int]:
    """Places of the next batch, in their order: the first, and those whose lengths are next to its.

    All rows of a batch cost as much as its longest, so a long one that joins short ones has them
    pay, and the other way round. Who came first is always taken, so that nobody waits for ever.

    Args:
        lengths: of those that wait, in tokens, in the order in which they came; 0 where rows have
            none, which then go in their order.
        most: rows of a batch.
        pass_tokens: what a batch costs beyond its tokens; so much padding may be added.
    """
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    low = high = order.index(0)
    real = longest = lengths[0]
    while high - low + 1 < most:
        shorter = lengths[order[low - 1]] if low else None
        longer = lengths[order[high + 1]] if high + 1 < len(order) else None
        rows = high - low + 2
        joins = [
            (max(longest, length) * rows - real - length, length, is_longer)
            for length, is_longer in ((shorter, False), (longer, True))
            if length is not None
        ]
        if not joins:
            break
        padding, length, is_longer = min(joins, key=lambda join: (join[0], not join[2]))
        if padding > pass_tokens + _PADDING_SHARE * (real + length):
            break
        real, longest = real + length, max(longest, length)
        low, high = (low, high + 1) if is_longer else (low - 1, high)
    return sorted(order[low : high + 1])
