"""A remote folder as files on this machine, for libraries that read only paths."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.uri import CHUNK_BYTES, Location


def near(model: Location, *, weights: bool = True) -> Location:
    """The folder of a model, where reading all of it is meant: of one on the Hugging Face Hub its
    copy on this machine, which is made unless it is there; else the folder itself.

    Args:
        weights: whether these are needed too.

    Raises:
        StorageError: the disk has no room, the Hub refuses, or cannot be asked.
    """
    if not is_on_hub(model.uri):
        return model
    from raymodel.storage.hub_model import fetch  # imports the client

    return Location.parse(str(fetch(model.uri, weights=weights)))


@contextmanager
def local_folder(location: Location, *, without: str | None = None) -> Iterator[Path]:
    """The folder itself when it is on a disk, else a copy that goes when the block ends, or of a
    model on the Hugging Face Hub the one that stays.

    Args:
        without: files whose name ends in this are not copied.
    """
    location = near(location, weights=without is None)
    if location.is_local:
        yield location.local_path
        return
    with tempfile.TemporaryDirectory(prefix="raymodel-") as temporary:
        folder = Path(temporary)
        for entry in location.walk():
            if without is not None and entry.name.endswith(without):
                continue
            copy_to_disk(location / entry.name, folder / entry.name)
        yield folder


def copy_to_disk(source: Location, target: Path) -> None:
    """Copies one file, in constant memory."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open_input() as stream, open(target, "wb") as out:
        while chunk := stream.read(CHUNK_BYTES):
            out.write(chunk)
