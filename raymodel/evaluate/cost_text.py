"""What two models cost beside each other, in words: for reports, cards and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.evaluate.cost import Costs
from raymodel.evaluate.report import markdown_table, number_text
from raymodel.observe.text import gib_text


def cost_rows(costs: Costs) -> list[tuple[str, str, str, str]]:
    """(what, before, after, their ratio) in words; above 1 is better."""
    before, after = costs.before, costs.after
    rows = [
        (
            "size",
            gib_text(before.size_bytes),
            gib_text(after.size_bytes),
            _ratio_text(before.size_bytes / after.size_bytes, "smaller", "larger"),
        ),
        (
            "latency of one row",
            _ms(before.latency_ms),
            _ms(after.latency_ms),
            _speed(before.latency_ms / after.latency_ms, costs.faster["1"]),
        ),
    ]
    for batch, rate in after.rows_per_s.items():
        was = before.rows_per_s[batch]
        words = (f"{number_text(was)} rows/s", f"{number_text(rate)} rows/s")
        rows.append((f"batches of {batch}", *words, _speed(rate / was, costs.faster[batch])))
    return rows


def cost_words(costs: Mapping[str, Any]) -> list[str]:
    """The same for a line of the terminal.

    Args:
        costs: as a manifest holds them.
    """
    return [f"{what} {was} → {now}" for what, was, now, _ in cost_rows(Costs.of(costs))]


def cost_text(costs: Costs, names: tuple[str, str] = ("before", "after")) -> str:
    """Markdown, with how it was measured.

    Args:
        names: of the two models.
    """
    table = markdown_table(("", *names, ""), cost_rows(costs))
    return (
        f"{table}\n\nMedians of {costs.what}, both models given as much in turn in one process: "
        f"{costs.machine}. In brackets, how many times as fast: the 95 % "
        "interval of the median of all rounds. The size is that of the files of weights."
    )


def _ms(value: float) -> str:
    return f"{value:.3g} ms"


def _speed(ratio: float, interval: Sequence[float]) -> str:
    low, high = interval
    if low <= 1 <= high:
        return f"no difference seen ({low:.2f}–{high:.2f} ×)"
    return f"{_ratio_text(ratio, 'faster', 'slower')} ({low:.2f}–{high:.2f} ×)"


def _ratio_text(ratio: float, more: str, less: str) -> str:
    if 0.98 <= ratio <= 1.02:
        return "equal"
    return f"{ratio:.2f} × {more}" if ratio > 1 else f"{1 / ratio:.2f} × {less}"
