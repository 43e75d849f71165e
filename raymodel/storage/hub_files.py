"""The Hugging Face Hub as a file system of pyarrow, so that a `Location` there is read as others.

It is read at commits alone: what lies there is the same for whoever reads it, whenever that is.

pyarrow's own bridge to the file systems of fsspec is not taken: it asks `isdir` and `exists` first,
and these answer "no" to whatever fails, so that a data set would be an empty one for a moment.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pyarrow as pa
from huggingface_hub import HfFileSystem
from pyarrow.fs import FileInfo, FileSystemHandler, FileType

from raymodel.errors import LocationError, StorageError
from raymodel.storage.hub_ask import asked
from raymodel.storage.hub_model import HubFile, files_of
from raymodel.storage.hub_place import SCHEME, HubPlace, check_may_ask, endpoint

if TYPE_CHECKING:
    from pyarrow.fs import FileSelector

T = TypeVar("T")


class HubFiles(FileSystemHandler):  # type: ignore[misc]
    """Reads alone. Paths are `datasets/OWNER/NAME@COMMIT/path`, and of models, of which those files
    are listed that are read, `OWNER/NAME@COMMIT/path`."""

    def __init__(self) -> None:
        # An instance of our own: theirs are shared by whoever asks for one.
        self._files = HfFileSystem(endpoint=endpoint(), skip_instance_cache=True)

    def get_type_name(self) -> str:
        return "hub"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        path, depth = selector.base_dir, None if selector.recursive else 1
        if HubPlace.parse(SCHEME + path).kind == "model" and (files := files_of(SCHEME + path)):
            return [*_listed(path, files, selector.recursive)]
        kind = self._info(path).type
        if kind == FileType.NotFound and not selector.allow_not_found:
            raise FileNotFoundError(path)
        if kind != FileType.Directory:
            return []
        found = self._ask(path, lambda: self._files.find(path, depth, withdirs=True, detail=True))
        assert isinstance(found, dict), "with `detail`"
        return [_file_info(name, each) for name, each in found.items() if name != path]

    def open_input_file(self, path: str) -> pa.NativeFile:
        if self._info(path).type == FileType.Directory:
            raise IsADirectoryError(f"{SCHEME}{path} is a folder")
        # Of a model headers and small files are read here, each by as many requests as reads: what
        # else is read ahead of data would be some megabytes for each header.
        is_model = HubPlace.parse(SCHEME + path).kind == "model"
        ahead = {"cache_type": "none"} if is_model else {}
        file = self._ask(path, lambda: self._files.open(path, "rb", **ahead))
        return pa.PythonFile(_HubFile(file, path), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _info(self, path: str) -> FileInfo:
        try:
            return _file_info(path, self._ask(path, lambda: self._files.info(path)))
        except FileNotFoundError:
            return FileInfo(path, FileType.NotFound)

    def _ask(self, path: str, action: Callable[[], T]) -> T:
        place = HubPlace.parse(SCHEME + path)
        assert place.is_pinned, f"{place.uri} may change while it is read"
        check_may_ask(place)
        try:
            return asked(place.uri, action)
        except (LocationError, StorageError):
            self._files.invalidate_cache()  # it would go on to say so, whatever the token is then
            raise

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:
        raise StorageError("the Hugging Face Hub is read, and nothing is written there")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse


class _HubFile(io.RawIOBase):
    """An open file, whose reads fail as those of other storages do."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path = file, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(position, whence))

    def read(self, size: int = -1) -> bytes:
        data: bytes = asked(SCHEME + self._path, lambda: self._file.read(size))
        return data

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _file_info(path: str, found: dict[str, Any]) -> FileInfo:
    """Without a time: what lies at a commit has none that would tell more than that."""
    if found["type"] == "file":
        return FileInfo(path, FileType.File, size=found["size"])
    return FileInfo(path, FileType.Directory)


def _listed(path: str, files: tuple[HubFile, ...], is_recursive: bool) -> Iterator[FileInfo]:
    """Files and folders of a listing of pyarrow."""
    folders = {parts[0] for each in files if len(parts := each.name.split("/")) > 1}
    for folder in sorted(folders):
        yield FileInfo(f"{path}/{folder}", FileType.Directory)
    for each in files:
        if is_recursive or "/" not in each.name:
            yield FileInfo(f"{path}/{each.name}", FileType.File, size=each.bytes)
