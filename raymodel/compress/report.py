"""What compressing gave and cost: for the report and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.evaluate.cost import Costs
from raymodel.evaluate.cost_text import cost_rows
from raymodel.evaluate.measure import Measured
from raymodel.evaluate.report import markdown_table, number_text
from raymodel.model.compressed_form import find_form

_ANSWERS, _SHOWN_CHARS = 3, 160  # of a card; the report has more, whole


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
    asked = {sample["prompt"]: sample["answer"] for sample in before.samples}
    quality = {
        name: f"{number_text(before.metrics.get(name))} → {number_text(value)}{_ends(after, name)}"
        for name, value in after.metrics.items()
    }
    answers = {
        number: f"{_shown(sample['prompt'])}: {_shown(was)} → {_shown(sample['answer'])}"
        for number, sample in enumerate(after.samples[:_ANSWERS], start=1)
        for was in [asked.get(sample["prompt"])]
        if was is not None
    }
    cost = {what: f"{was} → {now} ({ratio})" for what, was, now, ratio in cost_rows(costs)}
    return {
        **head,
        f"Quality, before → after, of {rows} held-out rows": quality,
        f"Cost, before → after, of {costs.what} on {costs.machine}": cost,
        "Answers, before → after": answers,
    }


def numbers_words(config: Mapping[str, Any]) -> dict[str, str]:
    """Lines of a card about weights that GPUs compute with; none for others.

    Args:
        config: the model's config.json.
    """
    form = find_form(config.get("quantization_config"))
    if form is None:
        return {}
    shared = "output" if form.group is None else f"{form.group} neighbours of a row"
    return {"scales": f"one for each {shared}"}


def _shown(text: str) -> str:
    """For a cell of a table: on one line, the end of what is longer, as text whatever it says."""
    line = " ".join(text.replace("`", "'").split())
    return f"`{line if len(line) <= _SHOWN_CHARS else '…' + line[-_SHOWN_CHARS:]}`"


def _ends(measured: Measured, name: str) -> str:
    ends: Sequence[float] = measured.intervals.get(name, ())
    return f" ({'–'.join(map(number_text, ends))})" if ends else ""
