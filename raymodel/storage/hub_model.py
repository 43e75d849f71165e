"""A model on the Hugging Face Hub: which of its files are read, and their copies on this machine.

Headers and configurations are read where they lie. Weights are fetched once for each machine, into
the cache of the Hub's own client, which gives a file its name when it is whole and lets processes
that want the same one wait for the first.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils.tqdm import tqdm

from raymodel.errors import ArtifactError, StorageError
from raymodel.storage.cache import cache_folder, hub_cache_folder, keep
from raymodel.storage.hub_ask import asked
from raymodel.storage.hub_place import HubPlace, check_may_ask, endpoint
from raymodel.storage.model_files import GGUF_FILE, INDEX, ONE_FILE, is_small, may_be_below
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location

_FILES_AT_ONCE = 4
"""A connection seldom fills the line; the Hub slows down who opens many."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class HubFile(NamedTuple):
    """A file that is read."""

    name: str
    """Its path in the folder of the model."""
    bytes: int
    digest: str
    """Of its content, as the Hub tells it."""


def files_of(uri: str) -> tuple[HubFile, ...]:
    """What is read of a model: small files, and of several forms of its weights one, as safetensors
    where there are any. Asked once for each commit; nothing where there is no such folder.

    Args:
        uri: of a folder at a commit.

    Raises:
        ArtifactError: what says where the weights are is damaged.
        StorageError: the Hub refuses to tell, or cannot be asked.
    """
    return _files_of(uri, endpoint())


def fetch(uri: str, *, weights: bool = True) -> Path:
    """The folder on this machine that holds a model, whose files are fetched unless they are there.

    Args:
        uri: of a folder at a commit.
        weights: whether these are needed too.

    Raises:
        ArtifactError: there is nothing to read.
        StorageError: the disk has no room, the Hub refuses, or cannot be asked.
    """
    place = HubPlace.parse(uri, "model")
    files = [file for file in files_of(uri) if weights or is_small(file.name)]
    if not files:
        raise ArtifactError(f"{uri} holds no file of a model; check the path")
    absent = [file for file in files if _find_whole(place, file) is None]
    if absent:
        _check_room(place, absent)
        sys.stderr.write(f"fetching {uri}, {_size_text(absent)}, to {hub_cache_folder()} …\n")
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(lambda file: _fetch_file(place, file), absent))
    first = _find_whole(place, files[0])
    assert first is not None, "it was fetched"
    return Path(str(first).removesuffix(files[0].name))


def size_text(uri: str) -> str:
    """`269.1 MB in 7 files`: what each machine fetches that reads a model. Raises as `files_of`."""
    return _size_text(files_of(uri))


def _size_text(files: Iterable[HubFile]) -> str:
    sizes = [file.bytes for file in files]
    return f"{sum(sizes) / 1e6:,.1f} MB in {len(sizes)} file{'s' if len(sizes) != 1 else ''}"


# ---- which files ---------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _files_of(uri: str, server: str) -> tuple[HubFile, ...]:
    """Kept on the disk too: a commit stays what it is, and whoever goes on with a model that is
    here needs no network then."""
    mark = hashlib.sha256(f"{server} {uri}".encode()).hexdigest()[:32]
    kept = cache_folder() / "hub" / f"{mark}.json"
    try:
        return tuple(HubFile(str(n), int(b), str(d)) for n, b, d in json.loads(kept.read_text()))
    except (OSError, ValueError, TypeError):
        files = tuple(sorted(_ask_files(uri)))
    keep(kept, json.dumps(files))
    return files


def _ask_files(uri: str) -> Iterator[HubFile]:
    place = HubPlace.parse(uri, "model")
    found = {each.name: each for each in _list(place, "")}
    wanted = _weights_in(found, Location(uri))
    for name, file in found.items():
        if file.bytes < 0:  # a folder
            if may_be_below(name):
                yield from (each for each in _list(place, name) if is_small(each.name))
        elif is_small(name) or name in wanted:
            yield file


def _weights_in(found: Mapping[str, HubFile], folder: Location) -> set[str]:
    """The files of weights that will be read, as `StoredWeights` chooses them."""
    if ONE_FILE in found:
        return {ONE_FILE}
    if INDEX not in found:
        return {GGUF_FILE}
    said = (folder / INDEX).read_json()
    names = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(names, dict):
        raise ArtifactError(f"{folder / INDEX} has no weight_map; give another revision")
    return {str(name) for name in names.values()}


def _list(place: HubPlace, below: str) -> list[HubFile]:
    """What lies directly in a folder; folders have -1 bytes."""
    check_may_ask(place)
    path = "/".join(part for part in (place.path, below) if part)
    api = HfApi(endpoint=endpoint())

    def ask() -> list[RepoFile | RepoFolder]:
        return [*api.list_repo_tree(place.repository, path or None, revision=place.revision)]

    def look() -> list[RepoFile | RepoFolder]:
        try:
            return asked(place.uri, ask)
        except FileNotFoundError:
            return []

    entries = with_retries(look, f"listing {place.uri}")
    start = f"{place.path}/" if place.path else ""
    return [_file(each, each.path.removeprefix(start)) for each in entries]


def _file(entry: RepoFile | RepoFolder, name: str) -> HubFile:
    if isinstance(entry, RepoFolder):
        return HubFile(name, -1, "")
    return HubFile(name, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)


# ---- fetching ------------------------------------------------------------------------------------


def _find_whole(place: HubPlace, file: HubFile) -> Path | None:
    """The copy of a file, where one is here that is whole."""
    copy = _find_copy(place, file)
    return copy if copy is not None and _is_whole(copy, file) else None


def _is_whole(copy: Path, file: HubFile) -> bool:
    return copy.stat().st_size == file.bytes


def _find_copy(place: HubPlace, file: HubFile) -> Path | None:
    found = try_to_load_from_cache(
        place.repository, _in_repository(place, file), hub_cache_folder(), place.revision
    )
    return Path(found) if isinstance(found, str) else None


def _in_repository(place: HubPlace, file: HubFile) -> str:
    return f"{place.path}/{file.name}" if place.path else file.name


def _check_room(place: HubPlace, absent: Iterable[HubFile]) -> None:
    """Raises StorageError where the disk cannot take what is to be fetched."""
    folder = hub_cache_folder()
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free, needed = shutil.disk_usage(there).free, sum(file.bytes for file in absent)
    if needed > free:
        raise _no_room(place, f"{needed / 1e9:,.2f} GB are to be fetched, and {free / 1e9:,.2f} GB")


def _no_room(place: HubPlace, why: str) -> StorageError:
    return StorageError(
        f"{place.uri}: {why} are free where {hub_cache_folder()} lies; make room there, or set "
        "HF_HOME to a folder of a larger disk, on every machine that reads the model"
    )


def _fetch_file(place: HubPlace, file: HubFile) -> None:
    check_may_ask(place)
    copy = _find_copy(place, file)  # of another process, by now
    is_damaged = copy is not None and not _is_whole(copy, file)

    def download() -> None:
        try:
            hf_hub_download(
                place.repository,
                _in_repository(place, file),
                revision=place.revision,
                cache_dir=hub_cache_folder(),
                endpoint=endpoint(),
                force_download=is_damaged,
                tqdm_class=_Quiet,
            )
        except LocalEntryNotFoundError as error:  # it was asked for, and this is why it is not here
            raise error.__cause__ or error from None
        except OSError as error:
            if error.errno in _FULL:
                raise _no_room(place, "too few bytes") from error
            if error.errno in _NOT_WRITABLE:
                raise StorageError(
                    f"{place.uri} cannot be kept in {hub_cache_folder()} ({error.strerror}); set "
                    "HF_HOME to a folder that can be written"
                ) from error
            raise

    with_retries(lambda: asked(place.uri, download), f"fetching {file.name} of {place.uri}")
    if _find_whole(place, file) is None:
        raise StorageError(
            f"{place.uri}: {file.name} came with other bytes than the {file.bytes:,} that the "
            "Hugging Face Hub tells; try again"
        )


class _Quiet(tqdm):
    """No bar of each file: several processes write to one terminal."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named | {"disable": True})  # type: ignore[no-untyped-call]
