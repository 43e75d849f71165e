"""The files that a task's section names, beside the sources: read where the job runs."""

from __future__ import annotations

from pathlib import Path

from raymodel.errors import MissingSourceError, SourceError
from raymodel.storage.uri import Location
from raymodel.tasks.spec import AnyTask


def read_files(spec: AnyTask, base_dir: Path | None = None) -> dict[str, str]:
    """The texts of `spec.files`, by the paths that the job file has.

    Args:
        base_dir: where a relative path starts; the current directory when None.

    Raises:
        SourceError: one is missing, or no text.
    """
    texts = {}
    for path in spec.files:
        place = Location.parse(path, base_dir)
        if not place.exists():
            raise MissingSourceError(
                f"{path!r}: {place} does not exist; {spec.name} needs that file. Check the path; a "
                "relative one starts at the job's working directory"
            )
        try:
            texts[path] = place.read_bytes().decode()
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise SourceError(f"{path!r}: {place} is no text file in UTF-8 ({error})") from error
    return texts
