"""Job file → Job: parse, override, validate; every problem with its line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.job import Job
from raymodel.spec.document import Path, Position, parse_document
from raymodel.spec.override import apply_overrides
from raymodel.spec.problems import Problem, find_problems, show, spec_error


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
    document = apply_overrides(parse_document(_read(file), str(path)), overrides)
    if not isinstance(document.data, dict):
        raise SpecError(
            f"{path}: {show(document.data)} is not a job; write sections, as `raymodel init` does"
        )
    job = _validate(document.data, document.positions)
    return LoadedJob(job, file, document.positions)


def _validate(data: dict[str, Any], positions: Mapping[Path, Position]) -> Job:
    try:
        return Job(**data)
    except ValidationError as error:
        problems: list[Problem] = find_problems(error, Job, data)
        raise spec_error(problems, positions) from error


def _read(file: FilePath) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(f"{file}: no such file; `raymodel init {file}` makes one") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{file}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}") from error
