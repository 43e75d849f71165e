"""`--set a.b=value`: settings from the command line, on top of the job file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from raymodel.errors import SpecError
from raymodel.spec.document import Document, Path, Position, dotted, parse_document
from raymodel.spec.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, too_deep
from raymodel.spec.show import shorten, show

_MAX_OVERRIDES = 200  # each looks at all positions, so that many of them take a second


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with each `path=value` put in, in order; later ones win.

    Args:
        document: A parsed job file; it is not changed.
        overrides: `cluster.workers=4`, `finetune.sources.0.path=data`, `evaluate.gates={}`. The
            value is YAML.

    Raises:
        SpecError: An override without `=` or value, or whose path leads through a plain value or
            past the end of a list; or more of them than a job file could hold.
    """
    chars = sum(map(len, overrides))
    if len(overrides) > _MAX_OVERRIDES or chars > MAX_BYTES:
        raise SpecError(
            f"--set: given {len(overrides):,} times with {chars:,} characters in all; it takes "
            f"{_MAX_OVERRIDES} and {MAX_BYTES:,} at most, so write the values into the job file"
        )
    data = copy.deepcopy(document.data)
    positions = dict(document.positions)
    nodes_left = MAX_NODES - len(positions)
    for text in overrides:
        name, value, num_nodes = _parse(text, nodes_left)
        nodes_left -= num_nodes
        source = f"--set {shorten(name)}"
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


def _parse(text: str, nodes_left: int) -> tuple[str, Any, int]:
    """The name, the value, and how many keys and values it holds."""
    name, equals, value = text.partition("=")
    name = name.strip()
    source = f"--set {shorten(name)}"
    parts = name.split(".")
    if not equals or not all(parts):
        raise SpecError(f"--set: {show(text)} is not a setting; write FIELD=VALUE, like seed=1")
    if len(parts) > MAX_DEPTH:
        raise SpecError(f"{source}: {too_deep()}")
    document = parse_document(value, source, has_lines=False, most_nodes=nodes_left)
    return name, document.data, len(document.positions)


def _next_part(here: Any, rest: list[str], at: tuple[str, Path]) -> tuple[str | int, list[str]]:
    source, path = at
    if isinstance(here, dict):
        for end in range(len(rest), 0, -1):
            if (key := ".".join(rest[:end])) in here:
                return key, rest[end:]
        return rest[0], rest[1:]
    if isinstance(here, list):
        if (index := _index(rest[0])) is not None and index < len(here):
            return index, rest[1:]
        raise SpecError(
            f"{source}: {dotted(path)} is a list of {len(here)}; {show(rest[0])} is none of "
            "its items, which are counted from 0"
        )
    raise SpecError(
        f"{source}: {dotted(path)} is {show(here)}, not a section; it has no {show(rest[0])}"
    )


def _index(part: str) -> int | None:
    """`"12"` → 12. Python's own `int` would take other scripts' digits too, and thousands of
    them."""
    return int(part) if part.isascii() and part.isdecimal() and len(part) < 10 else None
