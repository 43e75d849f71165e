"""What a run sees of each source, by stage, by thousand steps and in all: exact, and known before
the run, since the order of its rows is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.data.mixing.spec import MixtureSpec
from raymodel.data.order import Leg, Order
from raymodel.data.shard import Dataset
from raymodel.errors import SpecError
from raymodel.observe.text import count_text, many

WINDOW_STEPS = 1000
_MAX_WINDOWS = 1000
"""In a card; longer runs have windows of some thousand steps."""
VERSION = 1
"""Of the form of `mixture.json`."""


def plan_legs(
    spec: MixtureSpec, dataset: Dataset, names: Sequence[str], total_steps: int
) -> tuple[Leg, ...]:
    """The stages of a run with the weights of all parts; none where it has no stages.

    Args:
        names: of the artifacts of the dataset, by their places.

    Raises:
        SpecError: a name is nobody's, or a stage has no rows or no steps.
    """
    known = {*names, *(part.content.source for part in dataset.parts)}
    for path, name in spec.names:
        if name not in known:
            raise SpecError(
                f"mixture.{'.'.join(map(str, path[:-1]))} names {name!r}, and the data has "
                f"{', '.join(map(repr, sorted(known)))}; write the `path` of one of these"
            )
    ends, legs = [0, *spec.ends(total_steps)] if spec.stages else [], []
    for start, stage in zip(ends, spec.stages, strict=False):
        weights = dataset.weights(stage.weights, names)
        if not any(weights):
            raise SpecError(
                f"the stage of `mixture` from step {start} on gives every source the weight 0; "
                "leave one its weight"
            )
        legs.append(Leg(start, weights))
    return tuple(legs)


def check_visits(
    spec: MixtureSpec, dataset: Dataset, names: Sequence[str], order: Order, total_steps: int
) -> None:
    """Raises SpecError where the rows of a source would be visited more often than allowed."""
    problems = []
    for part, visits in zip(dataset.parts, order.visits(total_steps), strict=True):
        limit = _limit(spec, part.content.source, _name(names, part.place))
        per_row = visits / part.rows
        if limit is not None and per_row > limit:
            problems.append(
                f"the {many(part.rows, 'row')} of {part.content.source!r} would be visited "
                f"{per_row:.3g} times each in {total_steps:,} steps, and `mixture` allows "
                f"{limit:g}; lower its weight to {_lower(limit, per_row)} of what it is, train for "
                "fewer steps, give more of it, or allow more"
            )
    if problems:
        raise SpecError("\n".join(problems))


def _lower(limit: float, per_row: float) -> str:
    return f"{max(limit / per_row, 0.001):.3g}"


def _limit(spec: MixtureSpec, source: str, artifact: str) -> float | None:
    own = spec.max_visits_of
    return own.get(source, own.get(artifact, spec.max_visits))


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if names else ""


def what_is_seen(
    dataset: Dataset,
    order: Order,
    legs: Sequence[Leg],
    total_steps: int,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """As JSON: `sources`, with what the run sees of each; `stages`, each with what a thousand steps
    see of it (`tokens` and `rows` by source); and `windows`, the same for all steps one after the
    other.

    Args:
        names: of the artifacts of the dataset, by their places.
    """
    starts = [leg.first_step for leg in legs] or [0]
    window = WINDOW_STEPS * max(1, -(-total_steps // (WINDOW_STEPS * _MAX_WINDOWS)))
    whole = _between(dataset, order, 0, total_steps)
    return {
        "version": VERSION,
        "steps": total_steps,
        "global_batch": order.global_batch,
        "temperature": dataset.temperature,
        "sources": [
            {
                "source": part.content.source,
                "dataset": _name(names, part.place) or str(part.folder.parent.parent.parent),
                "rows": part.rows,
                "tokens": part.content.tokens,
                "tokens_seen": whole["tokens"][index],
                "rows_seen": whole["rows"][index],
                "visits_of_a_row": whole["rows"][index] / part.rows,
            }
            for index, part in enumerate(dataset.parts)
        ],
        "stages": [
            {
                "from": start,
                "until": end,
                "weights": list(legs[index].weights if legs else dataset.weights()),
                "window": _between(dataset, order, start, min(start + WINDOW_STEPS, end)),
            }
            for index, (start, end) in enumerate(
                zip(starts, [*starts[1:], total_steps], strict=True)
            )
        ],
        "windows": [
            _between(dataset, order, start, min(start + window, total_steps))
            for start in range(0, total_steps, window)
        ],
    }


def _between(dataset: Dataset, order: Order, start: int, end: int) -> dict[str, Any]:
    before, after = order.visits(start), order.visits(end)
    rows = [late - early for early, late in zip(before, after, strict=True)]
    tokens = [
        round(count * part.content.tokens / part.rows)
        for count, part in zip(rows, dataset.parts, strict=True)
    ]
    return {"from": start, "until": end, "rows": rows, "tokens": tokens}


def is_mixed(seen: Mapping[str, Any]) -> bool:
    """Whether there is anything to tell."""
    return len(seen["sources"]) > 1 or len(seen["stages"]) > 1


def seen_rows(seen: Mapping[str, Any]) -> list[dict[str, object]]:
    """A table for the terminal: a row for each source and stage of the run."""
    rows = list[dict[str, object]]()
    for index, source in enumerate(seen["sources"]):
        for stage in seen["stages"]:
            window = stage["window"]
            steps, total = window["until"] - window["from"], sum(window["tokens"]) or 1
            is_first = stage is seen["stages"][0]
            rows.append(
                {
                    "source": source["source"] if is_first else "",
                    "steps": f"{stage['from']:,} to {stage['until']:,}",
                    f"in {WINDOW_STEPS:,} steps": count_text(
                        window["tokens"][index] * WINDOW_STEPS / steps
                    ),
                    "share": f"{window['tokens'][index] / total:.1%}",
                    "visits of a row": f"{source['visits_of_a_row']:.3g}" if is_first else "",
                }
            )
    return rows
