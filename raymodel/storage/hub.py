"""Models on the Hugging Face Hub by their `hf://`, and ids that look like folders and are none."""

from __future__ import annotations

import re
from pathlib import Path

from raymodel.errors import ArtifactError
from raymodel.storage.registry import STAGES
from raymodel.storage.uri import Location

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SCHEMES = ("hf://", "https://")


def locate_on_hub(uri: str) -> Location:
    """`hf://OWNER/NAME[@REVISION][/folder]` → where a model lies, at the commit of now where its
    job has not found one (`job/pins.py`).

    Raises:
        LocationError: the Hugging Face Hub has no such model or revision.
        MissingSourceError: there is no network, by the environment.
        StorageError: the Hub refuses to tell, or cannot be asked.
    """
    from raymodel.storage.hub_ask import pin  # imports the client

    return Location.parse(pin(uri, "model"))


def check_no_hub_id(what: str, reference: str, base_dir: Path | None = None) -> None:
    """Raises ArtifactError for a reference that leads nowhere here and is written as an id.

    What is read on the Hub is written as that, with hf://: an id alone may as well be a folder that
    is not there, and would be another model by a typing error. `RUN/STAGE` is no id, though the run
    may not be there yet.

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
    """Raises ArtifactError for a URL of the Hub, where nothing is read by that, whatever lies on
    the disk."""
    if reference.startswith(_SCHEMES):
        raise _not_downloaded(repr(reference), reference)


def _not_downloaded(which: str, reference: str) -> ArtifactError:
    path, kind = reference.rpartition("://")[2].rstrip("/"), ""
    if "datasets/" in path:  # behind which stand the id and a path in the data set
        path = "/".join(path.partition("datasets/")[2].split("/")[:2]).partition("@")[0]
        kind, or_read = " --repo-type dataset", f"name hf://datasets/{path}/… as a source"
    # The last two parts of another URL are the id.
    wanted = "/".join(path.split("/")[-2:]).partition("@")[0]
    name = wanted.rpartition("/")[2]
    if not kind:
        whole = wanted if "/" in wanted else f"OWNER/{wanted}"
        or_read = f"write hf://{whole} where a model or a tokenizer is named"
    return ArtifactError(
        f"{which} reads like an id on the Hugging Face Hub, and is not read there by that. Fetch "
        f"it first (hf download {wanted}{kind} --local-dir {name}) and give that folder, or "
        f"{or_read}"
    )


def _is_of_a_run(reference: str) -> bool:
    return reference.partition("/")[2] in (*STAGES, "best")
