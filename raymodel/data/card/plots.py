"""The drawings of a data card: histograms as SVG, and bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from raymodel.data.card.sketch import bin_index, next_edge
from raymodel.observe.html import element

_WIDTH, _HEIGHT, _FOOT = 320, 96, 18  # units of the drawing, some pixels of a page
_MOST_BARS = 48
_BETWEEN_TICKS = 52  # room for a number
_Write = Callable[[float], str]


def histogram_plot(
    size: Mapping[str, Any], span: tuple[int, int], write: _Write, label: str
) -> Element:
    """A histogram over an axis whose numbers grow by a factor.

    Args:
        size: as `Histogram.summary` gives it.
        span: the least and the most that the axis holds: several plots are compared on one axis.
        write: a number of the axis for people.
        label: what is counted, for those who do not see it.
    """
    first, last = bin_index(_edge(span[0])), bin_index(_edge(span[1]))
    grouped = -(-(last - first + 1) // _MOST_BARS)
    bars: dict[int, tuple[int, int, int]] = {}
    for edge, count in size["bins"]:
        place = (bin_index(edge) - first) // grouped
        low, _, before = bars.get(place, (edge, edge, 0))
        bars[place] = (low, next_edge(edge) - 1, before + count)
    width = _WIDTH / (-(-(last - first + 1) // grouped))
    tallest = max(count for _, _, count in bars.values())
    total = max(1, size["count"])
    drawn = [
        element(
            "rect",
            element("title", f"{_range(low, high, write)}: {count:,} ({count / total:.1%})"),
            x=f"{place * width + 0.5:.2f}",
            y=f"{_HEIGHT - _tall(count, tallest):.2f}",
            width=f"{max(width - 1, 1):.2f}",
            height=f"{_tall(count, tallest):.2f}",
        )
        for place, (low, high, count) in sorted(bars.items())
    ]

    def at(number: int) -> float:
        return (bin_index(_edge(number)) - first + 0.5) / grouped * width

    median = at(size["median"])
    return element(
        "svg",
        element("title", label),
        *drawn,
        element(
            "line", class_="median", x1=f"{median:.2f}", x2=f"{median:.2f}", y1="0", y2=_HEIGHT
        ),
        element("line", class_="axis", x1="0", x2=_WIDTH, y1=_HEIGHT, y2=_HEIGHT),
        *_ticks(span, at, write),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT + _FOOT}",
        role="img",
        class_="histogram",
    )


def _tall(count: int, tallest: int) -> float:
    return max(1.0, (_HEIGHT - 4) * count / tallest)  # one document of a million is seen too


def _edge(number: int) -> int:
    """The lower edge of a number's bin."""
    shift = max(number.bit_length() - 4, 0)
    return (number >> shift) << shift


def _range(low: int, high: int, write: _Write) -> str:
    return write(low) if low == high else f"{write(low)} to {write(high)}"


def _ticks(span: tuple[int, int], at: Callable[[int], float], write: _Write) -> Iterator[Element]:
    taken = -_BETWEEN_TICKS / 2
    rounds = [number for number in _round_numbers(span[1]) if number >= span[0]]
    powers = [number for number in rounds if str(number).strip("0") in ("", "1")]
    rounds = powers if len(powers) > 1 else rounds
    for number in rounds or [span[0]]:
        x = min(max(at(number), 12.0), _WIDTH - 14.0)
        if x - taken < _BETWEEN_TICKS:
            continue
        taken = x
        yield element("text", write(number), x=f"{x:.2f}", y=_HEIGHT + 13, text_anchor="middle")


def _round_numbers(most: int) -> Iterator[int]:
    yield 0
    power = 1
    while power <= most:
        yield from (factor * power for factor in (1, 2, 5) if factor * power <= most)
        power *= 10


def bar_list(items: Sequence[tuple[str, int]], total: int, kind: str = "train") -> Element:
    """Names with a bar each; the longest is that of the most frequent.

    Args:
        total: that a share is taken of.
        kind: decides the colour.
    """
    most = max((count for _, count in items), default=1)
    rows = [
        element(
            "li",
            element("span", name or "–", class_="name", title=name),
            element("span", _bar(count / most, kind), class_="track"),
            element("span", f"{count:,}", class_="number"),
            element("span", share_text(count / max(1, total)), class_="number faint"),
        )
        for name, count in items
    ]
    return element("ul", *rows, class_="bars")


def _bar(share: float, kind: str) -> Element:
    return element("i", class_=f"is-{kind}", style=f"width:{100 * share:.2f}%")


def stacked_bar(parts: Iterable[tuple[str, float, str]]) -> Element:
    """One bar of several parts, with a legend that says all that the colours do.

    Args:
        parts: name, amount and kind of each; those of nothing are left out.
    """
    shown = [part for part in parts if part[1]]
    total = sum(amount for _, amount, _ in shown) or 1
    pieces = [
        element("i", class_=f"is-{kind}", style=f"flex:{amount / total:.6f}", title=name)
        for name, amount, kind in shown
    ]
    legend = [
        element(
            "li",
            element("i", class_=f"is-{kind}"),
            element("span", name),
            element("b", f"{amount:,.0f}"),
            element("span", share_text(amount / total), class_="faint"),
        )
        for name, amount, kind in shown
    ]
    return element(
        "div",
        element("div", *pieces, class_="stack", aria_hidden="true"),
        element("ul", *legend, class_="legend"),
    )


def share_text(share: float) -> str:
    """`0.1234` → `12 %`; small ones with the digits that tell them from nothing."""
    if not share:
        return "0 %"
    if share < 0.0001:
        return "< 0.01 %"
    digits = 0 if share >= 0.0995 else 1 if share >= 0.00995 else 2
    return f"{100 * share:.{digits}f} %"
