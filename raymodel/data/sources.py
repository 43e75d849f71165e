"""Where raw records lie: from the `path` of a source to a list of files with an identity."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import platform
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from raymodel.data.listed import (
    IN_ARCHIVE,
    Listed,
    SourceFile,
    list_files,
    list_members,
    source_file,
)
from raymodel.data.listing import named
from raymodel.data.readers.beside import names_beside
from raymodel.data.readers.content import packed_suffix
from raymodel.data.readers.librispeech import TRANSCRIPTS
from raymodel.data.readers.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, MEDIA_SUFFIXES
from raymodel.data.spec import ROWS_VERSION, CleanSpec, PrepareSpec, SourceSpec, TokenizerSpec
from raymodel.errors import MissingSourceError, SourceError
from raymodel.storage.archive import is_archive
from raymodel.storage.hub import check_no_hub_id, locate_on_hub
from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.local import near
from raymodel.storage.uri import Location, sha256

_NAMES: dict[str, tuple[str, ...]] = {
    "jsonl": ("*.jsonl", "*.ndjson", "*.json"),
    "csv": ("*.csv", "*.tsv"),
    "pixels": ("*.csv", "*.tsv"),
    "parquet": ("*.parquet",),
    "arrow": ("*.arrow",),
    "python_functions": ("*.py",),
    "class_folders": tuple(f"*{suffix}" for suffix in MEDIA_SUFFIXES),
    "mask_folders": tuple(f"*{suffix}" for suffix in IMAGE_SUFFIXES),
    "librispeech": (f"*{TRANSCRIPTS}", *(f"*{suffix}" for suffix in AUDIO_SUFFIXES)),
    "idx": ("*idx3-ubyte",),
    "squad": ("*.json",),
    "coco": ("*.json",),
    "warc": ("*.warc", "*.wet"),
    "xml": ("*.xml",),
    # As both sets are given out; CIFAR-100's pickles have no other names.
    "cifar": ("*.bin", "data_batch*", "test_batch*", "train", "test"),
}
"""What a folder's files must be called for a format, before the `.gz` and the like of a packed
file; the formats that are not here take every file."""

_KEPT_BESIDE = {"arrow": "cache-*.arrow"}
"""What lies in a folder under such a name and is no data: results that `datasets` keeps of `map`,
which would give its rows again."""

# Tests and bundled wheels are not the library's own text, and are as large as all the rest.
_STDLIB_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled"}
)


@dataclass(frozen=True)
class SourceFiles:
    """All files of a source, in their order. Picklable."""

    root: Location
    files: tuple[SourceFile, ...]
    identity: dict[str, Any]
    """What the fingerprint of a stage holds of this source: it changes when the data does."""
    notes: tuple[str, ...] = ()
    """What of the source is not read, to be said: links without an end, and the like."""

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def resolve_source(spec: SourceSpec, base_dir: Path | None = None) -> SourceFiles:
    """Finds the files of a source.

    Args:
        spec: the source.
        base_dir: where a relative path starts; the current directory when None.

    Raises:
        SourceError: nothing is there, or nothing that fits the format.
        LocationError: it is on the Hugging Face Hub, which has no such data set or revision.
        StorageError: it may not be read.
    """
    spec = pinned(spec)
    if spec.path.startswith("python:"):
        return _resolve_python(spec)
    place, pattern = _split_glob(spec.path)
    root = Location.parse(place, base_dir)
    if not root.exists():
        raise MissingSourceError(
            f"source {spec.path!r}: {root} does not exist; it must be a file, folder or glob. "
            "Check the path; a relative one starts at the job's working directory"
        )
    listed, (outer, _, inner) = list_files(root), (pattern or "").partition(IN_ARCHIVE)
    if is_archive(outer):
        listed = list_members(root, [f for f in listed.files if _is_wanted(f.name, outer)])
        names = {file: file.name.partition(IN_ARCHIVE)[2] for file in listed.files}
        wanted = [file for file, name in names.items() if _is_wanted(name, inner or None)]
    else:
        wanted = [file for file in listed.files if listed.is_file or _is_wanted(file.name, pattern)]
    return _source_files(spec, listed, wanted)


def pinned(spec: SourceSpec) -> SourceSpec:
    """The source at a commit, where it is on the Hugging Face Hub; what it is now, else as it is.

    A job pins all of its sources once (`job/pins.py`), so that all of a run reads the same.

    Raises:
        LocationError: the Hub has no such data set or revision.
        MissingSourceError: there is no network, by the environment.
        StorageError: the Hub refuses to tell.
    """
    if not is_on_hub(spec.path):
        return spec
    from raymodel.storage.hub_ask import pin  # imports the client

    return spec.model_copy(update={"path": pin(spec.path, "dataset")})


def prepare_identity(spec: PrepareSpec, base_dir: Path | None = None) -> dict[str, Any]:
    """What decides the result of `prepare`.

    Raises:
        SourceError: a source is missing, or the tokenizer.
    """
    tokenizer = spec.tokenizer and tokenizer_identity(spec.tokenizer, base_dir)
    return spec.identity() | {
        "tokenizer": tokenizer,
        "rows_version": ROWS_VERSION,
        **sources_identity(spec.sources, base_dir),
        **sets_identity(spec.clean, base_dir),
    }


def sets_of(clean: CleanSpec) -> tuple[SourceSpec, ...]:
    """The evaluation sets of a stage."""
    return tuple(clean.decontaminate.sets.values()) if clean.decontaminate else ()


def sets_identity(clean: CleanSpec, base_dir: Path | None = None) -> dict[str, Any]:
    """What the evaluation sets of a stage are; nothing where it names none.

    Raises:
        SourceError: one is missing.
    """
    if clean.decontaminate is None:
        return {}
    found = sources_identity(sets_of(clean), base_dir)
    names = [*clean.decontaminate.sets]
    return {"decontaminate": {"ngram": clean.decontaminate.ngram, "sets": names, **found}}


def sources_identity(sources: Sequence[SourceSpec], base_dir: Path | None = None) -> dict[str, Any]:
    """What the sources of a stage are, however the job file names them.

    Where a source lies counts, as seen from the job's folder: records may name other files below
    it, which no listing of its own files tells.

    Raises:
        SourceError: one is missing.
    """
    sources = [pinned(source) for source in sources]
    files = [resolve_source(source, base_dir).identity for source in sources]  # says what is wrong
    return {
        "sources": [each.identity() | {"path": _place(each, base_dir)} for each in sources],
        "source_files": files,
    }


def _place(spec: SourceSpec, base_dir: Path | None) -> str:
    if spec.path.startswith("python:"):
        return f"python:{spec.path.removeprefix('python:').strip('/')}"
    root, pattern = _split_glob(spec.path)
    place = Location.parse(root, base_dir)
    parts = [place.uri] if pattern is None else [place.uri, pattern]
    if place.is_local:
        inside = os.path.relpath(place.uri, base_dir or Path.cwd())
        parts[0] = place.uri if inside.startswith("..") else inside
    return "/".join(parts)


def _split_glob(path: str) -> tuple[str, str | None]:
    """`"a/b/*/c.txt"` → `("a/b", "*/c.txt")`; without a wildcard the pattern is None.

    In a bucket's URI `?` begins its options, which belong to the folder.
    """
    scheme, separator, rest = path.partition("://")
    if not separator:
        scheme, rest = "", path
    options = ""
    if scheme not in ("", "file"):
        rest, question, options = rest.partition("?")
        options = question + options
    parts = rest.split("/")
    for index, part in enumerate(parts):
        if any(character in part for character in "*?["):
            folder = "/".join(parts[:index]) or ("/" if rest.startswith("/") else ".")
            return scheme + separator + folder + options, "/".join(parts[index:])
    return path, None


def _source_files(spec: SourceSpec, listed: Listed, wanted: list[SourceFile]) -> SourceFiles:
    """Those of the format, each once though links give it more names: its own, or the first."""
    no_data = {file.name for file in wanted if _is_kept_beside(spec.format, file.name)}
    if not listed.is_file:
        wanted = [file for file in wanted if file.name not in no_data]
    files, by_place = _of_format(spec, listed, wanted), dict[str, SourceFile]()
    for file in files:
        own = f"{os.path.realpath(listed.root.uri)}/{file.name}" == file.real_path
        if own or file.real_path not in by_place:
            by_place[file.real_path or file.name] = file
    once = tuple(sorted(by_place.values(), key=lambda file: file.order))
    links = {file.name for file in files} - {file.name for file in once}
    notes = listed.notes
    if links:
        notes += (f"links to files that are read under another name: {named(links)}",)
    if no_data and not listed.is_file:
        notes += (f"files that `datasets` keeps for itself: {named(no_data)}",)
    said = tuple(f"source {spec.path!r} without {note}" for note in notes)
    identity = _identity(once, _beside(spec, listed, once))
    return SourceFiles(listed.root, once, identity, said)


def _is_kept_beside(format: str, path: str) -> bool:
    return fnmatch.fnmatchcase(path.rpartition("/")[2], _KEPT_BESIDE.get(format, ""))


def _is_wanted(name: str, pattern: str | None) -> bool:
    parts = name.split("/")
    if any(part.startswith(".") or part == "__pycache__" for part in parts):
        return False
    if pattern is None:
        return True
    wanted = pattern.split("/")
    if wanted[-1] == "**":
        wanted.append("*")
    return _matches(parts, wanted)


def _matches(parts: list[str], wanted: list[str]) -> bool:
    """Whether a path fits a glob, part by part; `**` stands for any number of folders."""
    if not wanted or not parts:
        return not wanted and not parts
    if wanted[0] == "**":
        return _matches(parts, wanted[1:]) or _matches(parts[1:], wanted)
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _of_format(
    spec: SourceSpec, listed: Listed, wanted: list[SourceFile]
) -> tuple[SourceFile, ...]:
    root, found, names = listed.root, listed.files, _NAMES.get(spec.format)
    fitting = [file for file in wanted if listed.is_file or _fits(file.name, names)]
    if fitting:
        return tuple(sorted(fitting, key=lambda file: file.order))
    if not found:
        raise SourceError(
            f"source {spec.path!r}: {root} holds no file with anything in it; "
            "it must hold at least one. Check the path"
        )
    seen = sorted({os.path.splitext(file.name)[1] or "no suffix" for file in wanted or found})
    rule = f"files called {', '.join(names)}" if names else "files that the path names"
    packed = next((file.name for file in wanted if is_archive(file.name)), None)
    hint = f"; an archive is read where the path names it, as {root / packed}" if packed else ""
    raise SourceError(
        f"source {spec.path!r}: none of the {len(found)} files below {root} fits; format "
        f"{spec.format!r} reads {rule}, and these end in {', '.join(seen[:8])}. "
        f"Change `format` or `path`{hint}"
    )


def _fits(path: str, names: tuple[str, ...] | None) -> bool:
    called = path.rpartition("/")[2].lower()
    called = called.removesuffix(packed_suffix(called))
    return names is None or any(fnmatch.fnmatchcase(called, name) for name in names)


def _beside(spec: SourceSpec, listed: Listed, files: Iterable[SourceFile]) -> list[SourceFile]:
    """What is read with the files, such as their labels: it lies beside them."""
    names = sorted({name for file in files for name in names_beside(spec.format, file.name)})
    if listed.is_file:  # of its folder nothing else is listed
        places = [(name, listed.root / name) for name in names]
        return [source_file(place.entry()) for _, place in places if place.exists()]
    by_name = {file.name: file for file in listed.files}
    return [by_name[name] for name in names if name in by_name]


def _identity(files: Iterable[SourceFile], beside: Iterable[SourceFile]) -> dict[str, Any]:
    """Names, sizes and times of the last change: a listing tells them, on disks and in buckets."""
    found = {"files": files, "beside": beside}
    told = {key: [[f.name, f.bytes, f.changed_ns] for f in each] for key, each in found.items()}
    return {key: each for key, each in told.items() if each or key == "files"}


# ---- python: sources ----------------------------------------------------------------------------


def _resolve_python(spec: SourceSpec) -> SourceFiles:
    name = spec.path.removeprefix("python:").strip("/")
    if name == "stdlib":
        listed = list_files(Location.parse(sysconfig.get_path("stdlib")), _STDLIB_LEFT_OUT)
        wanted = [file for file in listed.files if file.name.endswith(".py")]
        identity = {"python": platform.python_version()}
    else:
        listed = list_files(locate_in_package(spec.path))
        wanted = [file for file in listed.files if listed.is_file or _is_wanted(file.name, None)]
        identity = {"package": name, "version": _version_of(name.partition("/")[0])}
    found = _source_files(spec, listed, wanted)
    return replace(found, identity=identity | {"bytes": str(found.total_bytes)})


def locate_by_name(name: str) -> Location | None:
    """Where a model or a tokenizer lies that is named by no path: on the Hugging Face Hub, or in a
    package; None of all others. Errors are those of `locate_on_hub` and `locate_in_package`."""
    if is_on_hub(name):
        return locate_on_hub(name)
    return locate_in_package(name) if name.startswith("python:") else None


def locate_in_package(path: str) -> Location:
    """`python:PACKAGE/inner/path` → where it lies, without importing the package.

    Raises:
        SourceError: the package is not installed, or has no such file.
    """
    package, _, inner = path.removeprefix("python:").strip("/").partition("/")
    if not package.isidentifier():
        raise SourceError(
            f"{path!r}: {package!r} is not the name of a Python package; "
            "write python:stdlib or python:PACKAGE/path"
        )
    # find_spec of a top-level name only searches; it imports nothing.
    found = importlib.util.find_spec(package)
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        raise MissingSourceError(
            f"{path!r}: the package {package!r} is not installed here; it must be, on every node "
            "that reads it. For the packages of the examples: pip install 'raymodel[examples]'"
        )
    for folder in folders:
        place = Path(folder, *inner.split("/")) if inner else Path(folder)
        if place.exists():
            return Location.parse(str(place))
    raise SourceError(
        f"{path!r}: the installed package {package!r} has no {inner!r}; it lies in {folders[0]}. "
        "Check the path inside the package and its version"
    )


def _version_of(package: str) -> str:
    for distribution in metadata.packages_distributions().get(package, ()):
        return f"{distribution} {metadata.version(distribution)}"
    return "unknown"


# ---- tokenizers ----------------------------------------------------------------------------------

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)
"""What transformers makes a fast tokenizer of. In the folder of a model there is much else."""


def tokenizer_identity(spec: TokenizerSpec, base_dir: Path | None = None) -> dict[str, Any]:
    """What of a tokenizer decides the rows: how it is trained, or what it is, wherever it lies.

    Raises:
        SourceError: the one to load is not there.
    """
    if spec.load is None:
        return spec.identity()
    folder = near(find_tokenizer(spec.load, base_dir), weights=False)
    places = {name: folder / name for name in _TOKENIZER_FILES}
    return {"files": {name: sha256(file) for name, file in places.items() if file.exists()}}


def find_tokenizer(path: str, base_dir: Path | None = None) -> Location:
    """The folder that `tokenizer.load` names.

    Raises:
        SourceError: it does not exist, or holds no `tokenizer.json`.
    """
    place = locate_by_name(path)
    if place is None:
        check_no_hub_id("tokenizer.load", path, base_dir)
        place = Location.parse(path, base_dir)
    if not place.exists():
        raise MissingSourceError(
            f"tokenizer {path!r}: {place} does not exist; it must be a Hugging Face folder with a "
            "fast tokenizer. Check the path"
        )
    if not (place / "tokenizer.json").exists():
        raise SourceError(
            f"tokenizer {path!r}: {place} holds no tokenizer.json; it must be a Hugging Face "
            "folder with a fast tokenizer. Check the path, or save one there with save_pretrained"
        )
    return place
