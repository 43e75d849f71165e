"""The Hugging Face Hub as a file system of pyarrow, so that a `Location` there is read as others.

It is read at commits alone: what lies there is the same for whoever reads it, whenever that is.

pyarrow's own bridge to the file systems of fsspec is not taken: it asks `isdir` and `exists` first,
and these answer "no" to whatever fails, so that a data set would be an empty one for a moment.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pyarrow as pa
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from pyarrow.fs import FileInfo, FileSystemHandler, FileType

from raymodel.errors import LocationError, StorageError
from raymodel.storage.hub_place import SCHEME, HubPlace, check_may_ask, endpoint
from raymodel.storage.retry import first_line, with_retries

if TYPE_CHECKING:
    from pyarrow.fs import FileSelector

T = TypeVar("T")

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""That of the library by which the client asks, which is another one from version to version. A
connection that breaks off is such an error and no OSError."""
_REFUSED = (401, 403)


def pin(uri: str) -> str:
    """The same at the commit at which its branch or tag is now; a commit as it is.

    Raises:
        LocationError: there is no such data set or revision.
        MissingSourceError: there is no network, by the environment.
        StorageError: the Hub refuses to tell.
        StorageUnavailableError: it cannot be asked at the moment.
    """
    place = HubPlace.parse(uri)
    return place.uri if place.is_pinned else place.at(find_commit(place)).uri


def find_commit(place: HubPlace) -> str:
    """The commit at which a branch or tag is now, in 40 digits. Errors are those of `pin`."""
    check_may_ask(place)
    api = HfApi(endpoint=endpoint())

    def ask() -> str:
        revision = place.revision.replace("%2F", "/")
        found = api.dataset_info(place.repository, revision=revision, expand=["sha", "gated"])
        assert found.sha is not None, "it was asked for"
        if found.gated:  # then anybody is told what files there are, and not what is in them
            api.auth_check(place.repository, repo_type="dataset")
        return found.sha

    return with_retries(lambda: _asked(place.branch, ask), f"asking for {place.branch}")


class HubFiles(FileSystemHandler):  # type: ignore[misc]
    """Reads alone. Paths are `datasets/OWNER/NAME@COMMIT/path`."""

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
        file = self._ask(path, lambda: self._files.open(path, "rb"))
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
            return _asked(place.uri, action)
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
        data: bytes = _asked(SCHEME + self._path, lambda: self._file.read(size))
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


def _asked(uri: str, action: Callable[[], T]) -> T:
    """Asks the Hub, once; what it says against it becomes an error of ours, without a token.

    Raises:
        FileNotFoundError: the data set has no such file.
        LocationError: there is no such data set or revision.
        StorageError: it may not be read with this token, or without one.
        OSError: asking again may help.
    """
    try:
        return action()
    except (OSError, EntryNotFoundError, _HTTP_ERROR) as error:
        # Its file system tells all that is not there as a file that is not, and why as the cause.
        cause = error.__cause__ if type(error) is FileNotFoundError else error
        if cause is None or isinstance(cause, EntryNotFoundError):
            raise FileNotFoundError(uri) from error
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(cause, GatedRepoError | DisabledRepoError) or status in _REFUSED:
            raise StorageError(_refused_text(uri, cause, status)) from error
        if isinstance(cause, RevisionNotFoundError):
            place = HubPlace.parse(uri)
            raise LocationError(
                f"{uri!r}: the data set {place.repository} on the Hugging Face Hub has no revision "
                f"{place.revision!r}; write a branch, a tag or a commit of it"
            ) from error
        if isinstance(cause, RepositoryNotFoundError) or status == 404:
            raise LocationError(
                f"{uri!r}: the Hugging Face Hub has no data set "
                f"{HubPlace.parse(uri).repository!r}; check its name"
            ) from error
        # Told anew: the client's errors hold requests, and these the token.
        raise OSError(f"{endpoint()}: {first_line(error)}") from error


def _refused_text(uri: str, cause: BaseException, status: int | None) -> str:
    from huggingface_hub import get_token

    if isinstance(cause, GatedRepoError):
        why = "its owner asks who reads it to accept conditions on its page"
    elif isinstance(cause, DisabledRepoError):
        why = "it was disabled"
    elif get_token() is None:
        why = "it does not exist or is private, and there is no token"
    else:
        why = "the token is wrong, or may not read this"
    return (
        f"{uri!r}: the Hugging Face Hub refuses to have it read (HTTP {status}): {why}. Set "
        "HF_TOKEN to one that may read it, on every machine that does, or log in (hf auth login)"
    )
