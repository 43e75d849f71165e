"""What travels to the cluster as the job's working directory, and what stays here."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

# The walk that Ray packs with, so that the size is that of what will be sent; private, so a new
# version of Ray must pass the test of this module.
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from raymodel.errors import RequestError

# Ray keeps packages in the head's memory and refuses much more than this.
MAX_BYTES = 100 * 10**6
_NEVER_SENT = (".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv")
_WAY_ON = "Name what is not needed in .rayignore"

# Ray's walk logs the path of whatever its visitor raises; ours is in the message.
_SILENT = logging.getLogger(f"{__name__}.silent")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def find_excludes(folder: Path, storage: str) -> list[str]:
    """Patterns (as in `.gitignore`) of what is not sent: history, caches, environments, results.

    Ray leaves out what `.gitignore` and `.rayignore` name as well.
    """
    environments = sorted(f"/{path.parent.name}" for path in folder.glob("*/pyvenv.cfg"))
    excludes = [*_NEVER_SENT, *environments]
    if "://" not in storage:
        results = (folder / storage).resolve()
        if results != folder.resolve() and results.is_relative_to(folder.resolve()):
            excludes.append(f"/{results.relative_to(folder.resolve()).as_posix()}")
    return excludes


def check_folder(
    folder: Path,
    excludes: list[str],
    max_bytes: int = MAX_BYTES,
    *,
    needed: Collection[Path] = (),
) -> None:
    """Looks at all that Ray would pack, since packing ends at the first thing that it cannot read.

    Args:
        needed: files that the job cannot do without; those elsewhere are the cluster's affair.

    Raises:
        RequestError: more than `max_bytes`, naming the largest files; or what cannot be packed, or
            a needed file that stays here.
    """
    sizes: dict[Path, int] = {}

    def look(path: Path) -> None:
        if reason := why_not_packed(path):
            raise RequestError(
                f"{path.relative_to(folder)} {reason}, so {folder} cannot travel to the cluster. "
                f"{_WAY_ON}, or submit from another directory"
            )
        if path.is_file():
            sizes[path] = path.stat().st_size

    try:
        patterns = [_get_excludes(folder, excludes)]
        _dir_travel(folder, patterns, look, include_gitignore=True, logger=_SILENT)
    except (OSError, UnicodeError) as error:  # such as an ignore file that is no text
        raise RequestError(
            f"{folder} cannot travel to the cluster ({error}); every file below it must be "
            f"readable. {_WAY_ON}, or submit from another directory"
        ) from error
    _check_size(folder, sizes, max_bytes)
    stays = [file for file in needed if file.is_relative_to(folder) and file not in sizes]
    if stays:
        raise RequestError(
            f"{stays[0].relative_to(folder)} holds a part of the job and would stay here, since "
            ".gitignore or .rayignore names it; take it out of there, or submit from another "
            "directory"
        )


def why_not_packed(path: Path) -> str | None:
    """What keeps Ray from packing this; None when nothing does."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "has a name that is no UTF-8"
    if path.is_dir():
        if path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
            return "is a link to a folder that holds it"
        return None if os.access(path, os.R_OK | os.X_OK) else "may not be read by this user"
    if path.is_file():
        return None if os.access(path, os.R_OK) else "may not be read by this user"
    return "is a link to nothing" if path.is_symlink() else "is a socket, a pipe or a device"


def _check_size(folder: Path, sizes: dict[Path, int], max_bytes: int) -> None:
    total = sum(sizes.values())
    if total <= max_bytes:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    listed = ", ".join(f"{path.relative_to(folder)} ({_mb(sizes[path])})" for path in largest)
    raise RequestError(
        f"{folder} holds {_mb(total)}; at most {_mb(max_bytes)} travel to the cluster. The "
        f"largest: {listed}. {_WAY_ON}, or put data into a bucket"
    )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 10**6:.1f} MB"
