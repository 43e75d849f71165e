"""Job file → Job: parse, override, validate; every problem with its line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.job.spec import Job
from raymodel.spec.document import Path, Position, parse_document
from raymodel.spec.nodes import MAX_BYTES
from raymodel.spec.override import apply_overrides
from raymodel.spec.problems import find_problems, spec_error
from raymodel.spec.show import shorten, show

_MAX_NAME = 1000  # characters of a path in a message; most are far shorter, and shown whole


@dataclass(frozen=True)
class LoadedJob:
    """A job, and where each of its values was written."""

    job: Job
    path: FilePath
    positions: Mapping[Path, Position]


def load_job(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LoadedJob:
    """Reads a job file.

    Args:
        path: The YAML file. Nothing in it is expanded: no `~`, no environment variables.
        overrides: `--set` texts, such as `pretrain.global_batch=64`.

    Raises:
        SpecError: Anything wrong with the file or the overrides; one line a problem, each with
            file, line, field, value and rule.
    """
    file = FilePath(path)
    return load_text(_read(file), file, overrides)


def load_text(text: str, file: FilePath, overrides: Sequence[str] = ()) -> LoadedJob:
    """As `load_job`, of what would be in the file; raises SpecError alike."""
    name = shorten(str(file), _MAX_NAME)
    document = apply_overrides(parse_document(text, name), overrides)
    if not isinstance(document.data, dict):
        raise SpecError(
            f"{name}: {show(document.data)} is not a job; write sections, as `raymodel init` does"
        )
    job = _validate(document.data, document.positions)
    return LoadedJob(job, file, document.positions)


def _validate(data: dict[str, Any], positions: Mapping[Path, Position]) -> Job:
    try:
        return Job(**data)
    except ValidationError as error:
        raise spec_error(find_problems(error, Job, data), positions) from error


def _read(file: FilePath) -> str:
    """The text of a job file. Reads no further than the bound: `/dev/zero` has no end."""
    name = shorten(str(file), _MAX_NAME)
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        text = data.decode("utf-8") if len(data) <= MAX_BYTES else None
    except FileNotFoundError as error:
        raise SpecError(f"{name}: no such file; `raymodel init {name}` makes one") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{name}:{line}: byte {error.start} of the file is not UTF-8; save it as UTF-8"
        ) from error
    except OSError as error:
        raise SpecError(f"{name}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL, which only Python can write into a path
        raise SpecError(f"{name}: no path of a file: {error}") from error
    if text is None:
        raise SpecError(
            f"{name}: more than {MAX_BYTES // 1024} KiB, which no job file needs; name data by "
            "folders or patterns, and keep it in files of its own"
        )
    return text
