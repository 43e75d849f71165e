"""Ids of models on the Hugging Face Hub, which look like folders and are none."""

from __future__ import annotations

import re
from pathlib import Path

from raymodel.errors import ArtifactError
from raymodel.storage.registry import STAGES
from raymodel.storage.uri import Location

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SCHEMES = ("hf://", "https://", "http://")


def check_no_hub_id(what: str, reference: str, base_dir: Path | None = None) -> None:
    """Raises ArtifactError for a reference that leads nowhere here and is written as an id.

    A job downloads nothing when it runs: its workers may have no network, and what lies behind an
    id changes. `RUN/STAGE` is no id, though the run may not be there yet.

    Args:
        what: the reference is to be.
        reference: as the job file has it.
        base_dir: where relative paths start.
    """
    is_url = reference.startswith(_SCHEMES)
    if not is_url and (not _ID.fullmatch(reference) or _is_of_a_run(reference)):
        return
    if not is_url and Location.parse(reference, base_dir).exists():
        return
    name = reference.rstrip("/").rpartition("/")[2]
    raise ArtifactError(
        f"{what} is {reference!r}, which is no folder here and reads like an id on the Hugging "
        "Face Hub; nothing is downloaded while a job runs. Fetch it first (hf download "
        f"{reference} --local-dir {name}) and give that folder"
    )


def _is_of_a_run(reference: str) -> bool:
    return reference.partition("/")[2] in (*STAGES, "best")
