"""`raymodel status`: what every run under a storage has reached."""

from __future__ import annotations

import sys
import time
from typing import Any

from raymodel.errors import ArtifactError
from raymodel.observe.records import read_records
from raymodel.observe.text import count_text, table_text
from raymodel.storage.artifact import find_artifact
from raymodel.storage.manifest import FILE_NAME
from raymodel.storage.registry import Run, find_lock_holder, list_runs
from raymodel.storage.uri import Location

# In a bucket there is no lock to look at: a run counts as running while its records are this new.
_SIGN_OF_LIFE_S = 120.0


def print_status(storage_uri: str) -> None:
    """Prints a line for each run and stage: state, last metrics, whether it is `best`."""
    storage = Location.parse(storage_uri)
    rows = [row for run in list_runs(storage) for row in run_rows(run)]
    text = table_text(rows) if rows else f"no runs below {storage}"
    sys.stdout.write(text + "\n")


def run_rows(run: Run) -> list[dict[str, Any]]:
    """One row for each stage of a run, about the execution that was last worked on."""
    pointer = run.location / "best"
    best = pointer.read_text().strip() if pointer.exists() else ""
    is_held = find_lock_holder(run) is not None
    rows = []
    for stage in run.stages():
        execution = _newest_execution(run, stage)
        last = _last_metrics(execution)
        rows.append(
            {
                "run": run.name,
                "stage": stage,
                "state": _state(execution, last, is_held),
                "step": last.get("step"),
                "tokens": count_text(last["tokens"]) if last.get("tokens") else None,
                "loss": last.get("loss"),
                "validation": last.get("validation_loss"),
                "tokens/s": count_text(last["tokens_per_s"]) if last.get("tokens_per_s") else None,
                "goodput": last.get("goodput"),
                "best": "best" if best == f"{stage}/{execution.name}" else "",
                "fingerprint": execution.name,
            }
        )
    return rows


def _newest_execution(run: Run, stage: str) -> Location:
    """An unfinished execution, if there is one: it is the one worked on. Else `latest`."""
    executions = run.executions(stage)
    unfinished = [e for e in executions if not (e / FILE_NAME).exists()]
    if unfinished:
        return max(unfinished, key=lambda e: _last_metrics(e).get("time_s") or 0.0)
    pointer = run.location / stage / "latest"
    return run.execution(stage, pointer.read_text().strip()) if pointer.exists() else executions[-1]


def _state(execution: Location, last: dict[str, Any], is_held: bool) -> str:
    try:
        if find_artifact(execution) is not None:
            return "complete"
    except ArtifactError:
        return "damaged"
    if not execution.is_local:
        is_held = time.time() - (last.get("time_s") or 0.0) < _SIGN_OF_LIFE_S
    return "running" if is_held else "interrupted"


def _last_metrics(execution: Location) -> dict[str, Any]:
    """The last value of each metric."""
    values: dict[str, Any] = {}
    for record in read_records(execution / "metrics.jsonl"):
        values |= {name: value for name, value in record.items() if value is not None}
    return values
