"""`raymodel status`: what every run under a storage has reached."""

from __future__ import annotations

import sys
import time
from typing import Any

from raymodel.errors import ArtifactError, RequestError
from raymodel.observe.records import read_records
from raymodel.observe.text import amount_text, duration_text, table_text
from raymodel.observe.waiting import find_waiting
from raymodel.storage.artifact import find_artifact
from raymodel.storage.manifest import FILE_NAME
from raymodel.storage.registry import Run, find_lock_holder, find_run_around, list_runs, run_of
from raymodel.storage.uri import Location

# In a bucket there is no lock to look at: a run counts as running while its records are this new.
_SIGN_OF_LIFE_S = 120.0


def print_status(uri: str) -> None:
    """Prints each run with a line for each stage: state, last metrics, whether it is `best`.

    Args:
        uri: a storage, or the folder of one run.

    Raises:
        RequestError: there is no such folder, or it is neither.
    """
    folder = Location.parse(uri)
    runs = find_runs(folder)
    texts = [_run_text(run) for run in runs] or [f"no runs below {folder}"]
    sys.stdout.write("\n\n".join(texts) + "\n")


def _run_text(run: Run) -> str:
    rows = run_rows(run)
    told = {name for row in rows for name, value in row.items() if value not in (None, "")}
    shown = [{name: row[name] for name in row if name in told - {"run"}} for row in rows]
    lines = [*waiting_lines(run), *card_lines(run)]
    return "\n".join([run.name, table_text(shown, indent="  "), *lines])


def find_runs(folder: Location) -> list[Run]:
    """The runs of a storage, or the one whose folder this is. Raises as `print_status`."""
    # A bucket has no folders: there is one where something lies.
    if not (folder.local_path.is_dir() if folder.is_local else folder.list()):
        raise RequestError(
            f"there is no folder {folder}; give the storage of a job (`storage:` in its file), or "
            "the folder of one run in it. A storage is there once a job ran: raymodel run JOB"
        )
    if Run(folder).stages():
        return [Run(folder)]
    if runs := list_runs(folder):
        return runs
    if run := find_run_around(folder):
        raise RequestError(
            f"{folder} is a part of a run; give all of it: raymodel status {run.location}"
        )
    return []


def waiting_lines(run: Run) -> list[str]:
    """What each stage that waits waits for, and how long."""
    is_held = find_lock_holder(run) is not None
    lines = []
    for stage in run.stages():
        note = find_waiting(_newest_execution(run, stage))
        if note is not None and _is_alive(run.location, note, is_held):
            waited = duration_text(max(0.0, time.time() - note["since_s"]))
            lines.append(f"  {stage} waits for {note['for']} ({waited})")
    return lines


def card_lines(run: Run) -> list[str]:
    """Where the page lies that tells of the data of a stage."""
    lines = []
    for stage in run.stages():
        execution = _newest_execution(run, stage)
        try:
            artifact = find_artifact(execution)
        except ArtifactError:  # the table says that it is damaged
            continue
        if artifact is not None and (page := artifact.content.get("card")):
            lines.append(f"  data card of {stage}: {execution / page}")
    return lines


def run_rows(run: Run) -> list[dict[str, Any]]:
    """One row for each stage of a run, about the execution that was last worked on."""
    pointer = run.location / "best"
    best = pointer.read_text().strip() if pointer.exists() else ""
    is_held = find_lock_holder(run) is not None
    rows = []
    for stage in run.stages():
        execution = _newest_execution(run, stage)
        last, maker = _last_metrics(execution), run_of(execution)
        rows.append(
            {
                "run": run.name,
                "stage": stage,
                "state": _state(execution, last, is_held) if maker == run else _there(execution),
                "step": last.get("step"),
                "tokens": amount_text(last["tokens"], last) if last.get("tokens") else None,
                "loss": last.get("loss"),
                "validation": last.get("validation_loss"),
                "tokens/s": amount_text(last["tokens_per_s"], last)
                if last.get("tokens_per_s")
                else None,
                "goodput": last.get("goodput"),
                "best": "best" if best == f"{stage}/{execution.name}" else "",
                "fingerprint": execution.name,
                "made by": "" if maker == run else maker.name,
            }
        )
    return rows


def _newest_execution(run: Run, stage: str) -> Location:
    """An unfinished execution, if there is one: it is the one worked on. Else `latest`."""
    executions, latest = run.executions(stage), run.latest_location(stage)
    unfinished = [
        e
        for e in executions
        # One of the same name was taken over from another run meanwhile.
        if not (e / FILE_NAME).exists() and (latest is None or e.name != latest.name)
    ]
    if unfinished:
        return max(unfinished, key=lambda e: _last_metrics(e).get("time_s") or 0.0)
    return latest or executions[-1]


def _state(execution: Location, last: dict[str, Any], is_held: bool) -> str:
    try:
        if find_artifact(execution) is not None:
            return "complete"
    except ArtifactError:
        return "damaged"
    note = find_waiting(execution)
    if note is not None and _is_alive(execution, note, is_held):
        return "waiting"
    return "running" if _is_alive(execution, last, is_held) else "interrupted"


def _is_alive(location: Location, newest: dict[str, Any], is_held: bool) -> bool:
    """Whether somebody is at work: holds the lock, or wrote lately where there are no locks."""
    if location.is_local:
        return is_held
    return time.time() - (newest.get("time_s") or 0.0) < _SIGN_OF_LIFE_S


def _there(execution: Location) -> str:
    """The state of what another run made: when it is gone, this one makes it anew."""
    return "complete" if (execution / FILE_NAME).exists() else "gone"


def _last_metrics(execution: Location) -> dict[str, Any]:
    """The last value of each metric."""
    values: dict[str, Any] = {}
    for record in read_records(execution / "metrics.jsonl"):
        values |= {name: value for name, value in record.items() if value is not None}
    return values
