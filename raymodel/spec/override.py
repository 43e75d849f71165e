"""`--set a.b=value`: settings from the command line, on top of the job file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from raymodel.errors import SpecError
from raymodel.spec.document import Document, Path, Position, dotted, parse_document
from raymodel.spec.problems import show


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with each `path=value` put in, in order; later ones win.

    Args:
        document: A parsed job file; it is not changed.
        overrides: `cluster.workers=4`, `finetune.sources.0.path=data`, `evaluate.gates={}`. The
            value is YAML.

    Raises:
        SpecError: An override without `=` or value, or whose path leads through a plain value or
            past the end of a list.
    """
    data = copy.deepcopy(document.data)
    positions = dict(document.positions)
    for text in overrides:
        name, value = _parse(text)
        source = f"--set {name}"
        path = put(data, name, value, source)
        for stale in [known for known in positions if known[: len(path)] == path]:
            del positions[stale]
        for end in range(1, len(path) + 1):
            positions.setdefault(path[:end], Position(source))
    return Document(data, positions)


def put(data: Any, name: str, value: Any, source: str) -> Path:
    """Sets `data[a][b]… = value` in place for the dotted `name`; returns the path taken.

    Missing sections on the way are made. Where a key itself holds dots (as under `search:`), the
    longest existing key is taken.
    """
    here, rest = data, name.split(".")
    path: Path = ()
    while True:
        part, rest = _next_part(here, rest, (source, path))
        path = (*path, part)
        if not rest:
            here[part] = value
            return path
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[part]


def _parse(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    source = f"--set {name}"
    if not equals or not all(name.split(".")):
        raise SpecError(f"--set: {text!r} is not a setting; write FIELD=VALUE, like seed=1")
    if not value.strip():
        raise SpecError(f'{source}: no value after "="; write null for none, or "" for empty text')
    return name.strip(), parse_document(value, source, has_lines=False).data


def _next_part(here: Any, rest: list[str], at: tuple[str, Path]) -> tuple[str | int, list[str]]:
    source, path = at
    if isinstance(here, dict):
        for end in range(len(rest), 0, -1):
            if (key := ".".join(rest[:end])) in here:
                return key, rest[end:]
        return rest[0], rest[1:]
    if isinstance(here, list):
        if rest[0].isdecimal() and int(rest[0]) < len(here):
            return int(rest[0]), rest[1:]
        raise SpecError(
            f"{source}: {dotted(path)} is a list of {len(here)}; {rest[0]!r} is none of its "
            "items, which are counted from 0"
        )
    raise SpecError(
        f"{source}: {dotted(path)} is {show(here)}, not a section; it has no {rest[0]!r}"
    )
