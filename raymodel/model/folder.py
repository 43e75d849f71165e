"""A model's folder on this machine, wherever it is stored."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raymodel.errors import ArtifactError
from raymodel.storage.uri import CHUNK_BYTES, Location


@contextmanager
def local_model_folder(location: Location) -> Iterator[Path]:
    """The folder itself on a local disk, else a copy that is deleted at the end.

    Raises:
        ArtifactError: there is no model at `location`.
    """
    if location.is_local:
        yield location.local_path
        return
    files = location.walk()
    if not files:
        raise ArtifactError(
            f"{location} is empty or does not exist; give the folder of a model, with config.json"
        )
    with tempfile.TemporaryDirectory(prefix="model-") as name:
        folder = Path(name)
        for file in files:
            target = folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with (location / file.name).open_input() as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
        yield folder
