"""Ids of models and data sets on the Hugging Face Hub, which look like folders and are none."""

from __future__ import annotations

import re
from pathlib import Path

from raymodel.errors import ArtifactError
from raymodel.storage.registry import STAGES
from raymodel.storage.uri import Location

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SCHEMES = ("hf://", "https://")


def check_no_hub_id(what: str, reference: str, base_dir: Path | None = None) -> None:
    """Raises ArtifactError for a reference that leads nowhere here and is written as an id.

    A job downloads nothing when it runs: its workers may have no network, and what lies behind an
    id changes. `RUN/STAGE` is no id, though the run may not be there yet.

    Args:
        what: the reference is to be.
        reference: as the job file has it.
        base_dir: where relative paths start.
    """
    check_no_url_of_hub(reference)
    if not _ID.fullmatch(reference) or _is_of_a_run(reference):
        return
    if not Location.parse(reference, base_dir).exists():
        raise _not_downloaded(f"{what} is {reference!r}, which is no folder here and", reference)


def check_no_url_of_hub(reference: str) -> None:
    """Raises ArtifactError for a URL of the Hub, whatever lies on the disk."""
    if reference.startswith(_SCHEMES):
        raise _not_downloaded(repr(reference), reference)


def _not_downloaded(which: str, reference: str) -> ArtifactError:
    path, kind, or_read = reference.rpartition("://")[2].rstrip("/"), "", ""
    if "datasets/" in path:  # behind which stand the id and a path in the data set
        path = "/".join(path.partition("datasets/")[2].split("/")[:2]).partition("@")[0]
        kind, or_read = " --repo-type dataset", f", or name hf://datasets/{path}/… as a source"
    # The last two parts of another URL are the id.
    wanted = "/".join(path.split("/")[-2:])
    name = wanted.rpartition("/")[2]
    return ArtifactError(
        f"{which} reads like an id on the Hugging Face Hub; nothing is downloaded while a job "
        f"runs. Fetch it first (hf download {wanted}{kind} --local-dir {name}) and give that folder"
        f"{or_read}"
    )


def _is_of_a_run(reference: str) -> bool:
    return reference.partition("/")[2] in (*STAGES, "best")
