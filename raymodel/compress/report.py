"""What compressing gave and cost: for the report and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.evaluate.cost import Costs
from raymodel.evaluate.cost_text import cost_rows
from raymodel.evaluate.measure import Measured
from raymodel.evaluate.report import markdown_table, number_text


def parts_text(parts: Mapping[str, Measured], merged: Measured) -> str:
    """Markdown: each model that was merged, beside the result."""
    names = list(merged.metrics)
    lines = {**parts, "merged": merged}
    rows = [
        (name, *(number_text(each.metrics.get(measure)) for measure in names))
        for name, each in lines.items()
    ]
    return markdown_table(("model", *names), rows)


def card_of(
    head: Mapping[str, Any], before: Measured, after: Measured, costs: Costs, rows: int
) -> dict[str, Any]:
    """What README.md says of a measured model, see `render_card`."""
    quality = {
        name: f"{number_text(before.metrics.get(name))} → {number_text(value)}{_ends(after, name)}"
        for name, value in after.metrics.items()
    }
    cost = {what: f"{was} → {now} ({ratio})" for what, was, now, ratio in cost_rows(costs)}
    return {
        **head,
        f"Quality, before → after, of {rows} held-out rows": quality,
        f"Cost, before → after, of {costs.what} on {costs.machine}": cost,
    }


def _ends(measured: Measured, name: str) -> str:
    ends: Sequence[float] = measured.intervals.get(name, ())
    return f" ({'–'.join(map(number_text, ends))})" if ends else ""
