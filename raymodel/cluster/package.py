"""What travels to the cluster as the job's working directory, and what stays here."""

from __future__ import annotations

from pathlib import Path

# The walk that Ray packs with, so that the size is that of what will be sent; private, so a new
# version of Ray must pass the test of this module.
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from raymodel.errors import ClusterError

# Ray keeps packages in the head's memory and refuses much more than this.
MAX_BYTES = 100 * 10**6
_NEVER_SENT = (".git", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv")


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


def check_size(folder: Path, excludes: list[str], max_bytes: int = MAX_BYTES) -> None:
    """Raises ClusterError when the files to send have more than `max_bytes`; names the largest."""
    sizes: dict[Path, int] = {}

    def measure(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    _dir_travel(folder, [_get_excludes(folder, excludes)], measure, include_gitignore=True)
    total = sum(sizes.values())
    if total <= max_bytes:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    listed = ", ".join(f"{path.relative_to(folder)} ({_mb(sizes[path])})" for path in largest)
    raise ClusterError(
        f"{folder} holds {_mb(total)}; at most {_mb(max_bytes)} travel to the cluster. The "
        f"largest: {listed}. Name what is not needed in .rayignore, or put data into a bucket"
    )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 10**6:.1f} MB"
