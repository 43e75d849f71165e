"""An archive as a file system of pyarrow, so that a `Location` in it is read as any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSystemHandler, FileType

from raymodel.storage.archive import Archive, open_archive

if TYPE_CHECKING:
    from pyarrow.fs import FileSelector

    from raymodel.storage.uri import Location


class ArchiveFiles(FileSystemHandler):  # type: ignore[misc]
    """Reads alone. Paths are those of the members, without a slash before them."""

    def __init__(self, place: Location) -> None:
        self._place = place

    def get_type_name(self) -> str:
        return "archive"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        archive = open_archive(self._place)
        return [_info(archive, path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        archive = open_archive(self._place)
        base = f"{selector.base_dir}/" if selector.base_dir else ""
        below = [path for path in (*archive.members, *archive.folders) if path.startswith(base)]
        return [
            _info(archive, path)
            for path in below
            if path not in ("", selector.base_dir)
            and (selector.recursive or "/" not in path[len(base) :])
        ]

    def open_input_file(self, path: str) -> pa.NativeFile:
        archive = open_archive(self._place)
        if path in archive.folders:
            raise IsADirectoryError(f"{self._place}!/{path} is a folder")
        if path not in archive.members:
            raise FileNotFoundError(path)
        return pa.PythonFile(archive.open(path), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        raise PermissionError(f"{self._place} is an archive, in which nothing is written")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse


def _info(archive: Archive, path: str) -> FileInfo:
    if (member := archive.members.get(path)) is not None:
        # The time is the archive's: that of a member says nothing of what it was replaced by.
        return FileInfo(path, FileType.File, size=member.bytes, mtime_ns=archive.changed_ns)
    return FileInfo(path, FileType.Directory if path in archive.folders else FileType.NotFound)
