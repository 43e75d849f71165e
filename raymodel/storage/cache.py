"""Where this machine's user keeps what can be found out again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """That of this package (XDG Base Directory, 0.8)."""
    return _base() / "raymodel"


def hub_cache_folder() -> Path:
    """Where the Hugging Face Hub's own client keeps what it fetched, for whoever uses it: what is
    there already, by `hf download` too, is not fetched again."""
    environment = os.environ
    if told := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(told).expanduser()
    home = environment.get("HF_HOME")
    return (Path(home).expanduser() if home else _base() / "huggingface") / "hub"


def keep(file: Path, text: str) -> None:
    """Writes a file of the cache in one step, since several processes may do so at a time. A folder
    that cannot be written is no reason to stop: it will be found out again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:
            part.write(text)
        os.replace(part.name, file)
    except OSError:
        return


def _base() -> Path:
    place = os.environ.get("XDG_CACHE_HOME", "")
    # "All paths must be absolute. If an implementation encounters a relative path it should
    # consider the path invalid and ignore it."
    return Path(place) if os.path.isabs(place) else Path.home() / ".cache"
