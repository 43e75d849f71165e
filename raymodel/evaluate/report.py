"""The report of an evaluation: metrics.json for programs, report.md for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from raymodel.evaluate.gates import TEXT_PREFIX, GateResult, check_gates
from raymodel.evaluate.intervals import LEVEL
from raymodel.evaluate.measure import Measured
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.observe.measures import is_better, is_measured
from raymodel.storage.uri import Location
from raymodel.tasks import is_higher_better

# Of a prompt that is longer, the end is shown: it is what the answer goes on from.
_SHOWN_CHARS = 800


def judge(
    after: Measured,
    before: Measured | None,
    spec: EvaluateSpec,
    report: Location,
    candidate: str,
    further: Mapping[str, str] = MappingProxyType({}),
    *,
    called: str = "base",
) -> dict[str, Any]:
    """Checks the gates and writes the report.

    Args:
        after: of the model that is judged.
        before: of what it was made from, or is held to.
        report: the folder of the report.
        candidate: what the judged model is called once it is promoted.
        further: see `write_report`.
        called: what `before` is, in a word.

    Returns:
        What a manifest tells: `metrics`, `intervals` and `base_metrics` by name, `gates`, `passed`,
        `rows`, `slow_paths`, and `promoted` (`candidate`, None unless every gate is met).
    """
    gates = check_gates(after.metrics, spec.gates)
    passed = all(gate.passed for gate in gates)
    write_report(report, after, before, gates, further, called=called)
    return {
        "metrics": after.metrics,
        "intervals": after.intervals,
        "base_metrics": before.metrics if before else {},
        "gates": [gate.to_dict() for gate in gates],
        "passed": passed,
        "rows": after.rows,
        "slow_paths": after.slow_paths,
        "promoted": candidate if passed else None,
    }


def write_report(
    folder: Location,
    tuned: Measured,
    base: Measured | None,
    gates: Sequence[GateResult],
    further: Mapping[str, str] = MappingProxyType({}),
    *,
    called: str = "base",
) -> None:
    """Writes `metrics.json` and `report.md` into `folder`.

    Args:
        further: title → Markdown of further parts, after the measures.
        called: what `base` is, in a word.
    """
    folder.make_dir()
    data = {
        "metrics": tuned.metrics,
        "intervals": tuned.intervals,
        "base_metrics": base.metrics if base else {},
        "gates": [gate.to_dict() for gate in gates],
        "rows": tuned.rows,
        "signatures": tuned.signatures,
        "tables": tuned.tables,
        "samples": tuned.samples,
    }
    (folder / "metrics.json").write_json(data)
    (folder / "report.md").write_text(render_report(tuned, base, gates, further, called=called))


def render_report(
    tuned: Measured,
    base: Measured | None,
    gates: Sequence[GateResult],
    further: Mapping[str, str] = MappingProxyType({}),
    *,
    called: str = "base",
) -> str:
    """Markdown: measures side by side, gates, tables, samples with their references."""
    rows = ", ".join(f"{count} of `{role}`" for role, count in tuned.rows.items())
    parts = ["# Evaluation", f"Held-out rows: {rows}.", _metrics_table(tuned, base, called)]
    parts += [f"`{name}`: {signature}" for name, signature in tuned.signatures.items()]
    for title, text in further.items():
        parts += [f"## {title}", text]
    if gates:
        parts += ["## Gates", _gates_table(gates)]
    for table in tuned.tables:
        cells = ([str(cell) for cell in row] for row in table["rows"])
        parts += [f"## {table['title']}", table["note"], markdown_table(table["head"], cells)]
    if tuned.samples:
        parts.append("## Samples")
        parts += list(_samples(tuned, base, called))
    return "\n\n".join(parts) + "\n"


def _metrics_table(tuned: Measured, base: Measured | None, called: str) -> str:
    interval = f"{LEVEL:.0%} interval"
    if base is None:
        rows = [
            (name, number_text(value), _ends(tuned, name)) for name, value in tuned.metrics.items()
        ]
        return markdown_table(("measure", "model", interval), rows)
    compared = [
        (
            name,
            number_text(base.metrics.get(name)),
            number_text(value),
            _ends(tuned, name),
            _better(name, base, value, called),
        )
        for name, value in tuned.metrics.items()
    ]
    return markdown_table(("measure", called, "model", interval, "better"), compared)


def _ends(tuned: Measured, name: str) -> str:
    """The interval that the measure has when the rows are drawn again."""
    if name not in tuned.intervals:
        return "–"
    return " … ".join(map(number_text, tuned.intervals[name]))


def _better(name: str, base: Measured, value: float | None, called: str) -> str:
    before = base.metrics.get(name)
    if not (is_measured(before) and is_measured(value)):
        return "–"
    higher = is_higher_better(name.removeprefix(TEXT_PREFIX))
    if is_better(value, before, higher=higher):
        return "model"
    return called if is_better(before, value, higher=higher) else "–"


def _gates_table(gates: Iterable[GateResult]) -> str:
    rows = [
        (gate.name, gate.condition, number_text(gate.value), "met" if gate.passed else "NOT met")
        for gate in gates
    ]
    return markdown_table(("measure", "condition", "value", ""), rows)


def _samples(tuned: Measured, base: Measured | None, called: str) -> Iterable[str]:
    before = {sample["prompt"]: sample["answer"] for sample in base.samples} if base else {}
    for number, sample in enumerate(tuned.samples, start=1):
        yield f"### {number}"
        yield "Prompt" + _block(sample["prompt"])
        yield "Reference" + _block(sample["reference"])
        if sample["prompt"] in before:
            yield called.capitalize() + _block(before[sample["prompt"]])
        yield "Model" + _block(sample["answer"])


def _block(text: str) -> str:
    """A fenced block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = text if len(text) <= _SHOWN_CHARS else "…" + text[-_SHOWN_CHARS:]
    return f"\n\n{fence}text\n{shown}\n{fence}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, which may hold anything, below a head."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def number_text(value: float | None) -> str:
    """A measure in four digits."""
    return "not finite or not measured" if value is None else f"{value:.4g}"


def summary(content: Mapping[str, Any]) -> list[str]:
    """Each measure in words, with the base model's value before it where there is one, and the
    interval after it."""
    base, intervals = content["base_metrics"], content["intervals"]
    parts = []
    for name, value in content["metrics"].items():
        before = f"{number_text(base[name])} → " if name in base else ""
        ends = f" ({'–'.join(map(number_text, intervals[name]))})" if name in intervals else ""
        parts.append(f"{name} {before}{number_text(value)}{ends}")
    return parts
