"""What lies below a `Location`: pyarrow file systems, and atomic writes on local disks."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from raymodel.errors import LocationError, StorageError
from raymodel.storage.archive import MARK
from raymodel.storage.hub_place import SCHEME

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs", "abfs", "hdfs", "hf")
PART_SUFFIX = ".part"  # marks a file still being written


def open_filesystem(root: str) -> tuple[FileSystem, str]:
    """The file system of a root URI, made once in each process.

    Args:
        root: `scheme://authority/[?options]`; "" for local disks; the place of an archive and `!`
            for what lies in it.

    Returns:
        The file system, and the path of the root in it.

    Raises:
        StorageError: when it cannot be made.
    """
    # Where they are asked: another server has other files.
    endpoint = "HF_ENDPOINT" if root.startswith(SCHEME) else "AWS_ENDPOINT_URL"
    return _open_filesystem(root, os.environ.get(endpoint))


@functools.lru_cache(maxsize=16)
def _open_filesystem(root: str, endpoint: str | None) -> tuple[FileSystem, str]:
    from pyarrow import fs

    if not root:
        return fs.LocalFileSystem(), "/"
    if root.endswith(MARK):
        from raymodel.storage.archive_files import ArchiveFiles
        from raymodel.storage.uri import Location

        return fs.PyFileSystem(ArchiveFiles(Location(root.removesuffix(MARK)))), ""
    if root.startswith(SCHEME):
        from raymodel.storage.hub_files import HubFiles

        return fs.PyFileSystem(HubFiles()), root.removeprefix(SCHEME).rstrip("/")
    if root.startswith("s3://") and endpoint and "?" not in root:
        # Given an endpoint, AWS must not be asked for the bucket's region, as `from_uri` does.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        bucket = root.removeprefix("s3://").rstrip("/")
        return fs.S3FileSystem(endpoint_override=endpoint, region=region), bucket
    try:
        filesystem, path = fs.FileSystem.from_uri(root)
    except (OSError, ValueError, ImportError) as error:
        raise StorageError(
            f"the storage {root} cannot be opened ({error}); check its name, the network and the "
            "credentials in the environment"
        ) from error
    return filesystem, path


def check_no_secret(scheme: str, authority: str, options: str) -> None:
    """Refuses credentials inside a URI, without repeating them.

    Raises:
        LocationError: when there are any.
    """
    user = authority.rpartition("@")[0]
    in_options = any(word in options.lower() for word in ("secret", "access_key", "token"))
    if (user and (scheme in ("s3", "gs") or ":" in user)) or in_options:
        raise LocationError(
            f"a {scheme}:// URI with credentials in it would end up in logs and manifests; "
            "leave them out and set them in the environment, like AWS_SECRET_ACCESS_KEY"
        )


def replace_file(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes beside `path`, forces it to disk, then renames: the POSIX way to be atomic.

    Args:
        path: the file, which afterwards holds the old or the new content, never a part.
        fill: writes the content to the open file that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    try:
        with open(part, "xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself must survive a power cut
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
