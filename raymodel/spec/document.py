"""YAML text → plain data, with the line of every key.

The dialect is YAML 1.2's core schema with decimal, finite numbers, read through PyYAML's node tree
(which is safe: nothing is constructed from tags). PyYAML's own YAML 1.1 rules hold traps for a job
file: `1e-3` is text, `on` and `no` are booleans, `1:30` is ninety, and the second of two equal keys
wins silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from raymodel.errors import SpecError
from raymodel.spec.nodes import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    NodeError,
    compose,
    too_deep,
    too_many_nodes,
)
from raymodel.spec.show import shorten, show

Path = tuple[str | int, ...]
"""Where a value stands in a job file: keys, and indexes of list items."""

_NULL = re.compile(r"null|Null|NULL|~")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_MAX_INT = 2**63 - 1  # what a 64-bit integer holds, and JSON's readers with it
_MAX_CHARS = 8 * MAX_BYTES  # of a document with its aliases written out
# Breaks file names, terminals and JSON; a template may hold tabs and line breaks.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def dotted(path: Path) -> str:
    """`("finetune", "sources", 0)` → `"finetune.sources.0"`, as `--set` writes it."""
    return ".".join(shorten(str(part)) for part in path)


@dataclass(frozen=True)
class Position:
    """Where a value was written: a file and its line, or a `--set` option."""

    source: str
    line: int | None = None
    """Counted from 1; None where lines mean nothing."""
    column: int | None = None
    """Counted from 1."""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Document:
    """Plain data (dict, list, str, int, float, bool, None) and where each value was written."""

    data: Any
    positions: Mapping[Path, Position] = field(default_factory=dict)


def parse_document(
    text: str, source: str, *, has_lines: bool = True, most_nodes: int = MAX_NODES
) -> Document:
    """Parses one YAML document.

    Args:
        text: The YAML.
        source: The file's name, as error messages show it.
        has_lines: False for a text that is no file, such as the value of `--set`.
        most_nodes: Keys and values that it may hold, aliases written out.

    Raises:
        SpecError: Bad syntax, a duplicate or non-text key, a key with nothing after it, a tag, a
            number that no 64-bit type holds, a control character, or more than the bounds of
            `nodes.py`; with the line.
    """
    try:
        root = compose(text)
    except NodeError as error:
        where = Position(source, error.line, error.column) if has_lines else Position(source)
        raise SpecError(f"{where}: {error.message}") from error
    if root is None and has_lines:
        raise SpecError(f"{source}: nothing is written here; `raymodel init` writes a first job")
    if root is None or (_is_blank(root) and not has_lines):
        raise SpecError(f'{source}: no value after "="; write null for none, or "" for empty text')
    builder = _Builder(source, has_lines, most_nodes)
    return Document(builder.build(root, ()), builder.positions)


class _Builder:
    """Walks a node tree once, collecting data and positions."""

    def __init__(self, source: str, has_lines: bool, most_nodes: int) -> None:
        self.source = source
        self.has_lines = has_lines
        self.positions: dict[Path, Position] = {}
        self._open: list[yaml.Node] = []
        self._nodes_left = most_nodes
        self._chars_left = _MAX_CHARS

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.positions.setdefault(path, self._position(node))
        if any(node is outer for outer in self._open):
            raise self._error(node, f"{dotted(path)} contains itself; write its values out")
        self._check_room(node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self._scalar(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, path)
            here = (*path, key)
            if key in data:
                first = self.positions[here]
                raise self._error(
                    key_node, f"{dotted(here)} is given twice (first at {first}); keep one"
                )
            self.positions[here] = self._position(key_node)
            if _is_blank(value_node):
                raise self._error(
                    key_node,
                    f"{dotted(here)}: nothing is written after `{shorten(key)}:`; write its value, "
                    "`{}` for a section of defaults, or `null` for none",
                )
            data[key] = self.build(value_node, here)
        return data

    def _key(self, node: yaml.Node, path: Path) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key must be text; found a list or a section in its place")
        self._check_room(node)
        if node.style is None and node.value == "<<":
            raise self._error(
                node, "`<<` merges sections, which a job file does not; write the values out"
            )
        value = self._scalar(node, path)
        if isinstance(value, str):
            return value
        written = shorten(node.value)
        raise self._error(node, f'the key {written or "null"} is not text; quote it: "{written}"')

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> str | int | float | bool | None:
        try:
            return _plain_value(node)
        except ValueError as error:
            at = f"{dotted(path)}: " if path else ""
            raise self._error(node, f"{at}{error}") from None

    def _check_room(self, node: yaml.Node) -> None:
        """An alias costs what it stands for: nine lines of them can stand for a billion values."""
        self._nodes_left -= 1
        self._chars_left -= len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if self._nodes_left < 0:
            raise self._error(node, too_many_nodes())
        if self._chars_left < 0:
            message = f"more than {_MAX_CHARS:,} characters, aliases written out; repeat less"
            raise self._error(node, message)
        if len(self._open) >= MAX_DEPTH:
            raise self._error(node, too_deep())

    def _position(self, node: yaml.Node) -> Position:
        if not self.has_lines:
            return Position(self.source)
        return Position(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def _error(self, node: yaml.Node, message: str) -> SpecError:
        return SpecError(f"{self._position(node)}: {message}")


def _is_blank(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value == ""


def _plain_value(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """Raises ValueError for a number or a text that a job cannot hold."""
    text: str = node.value
    if control := _CONTROL.search(text):
        raise ValueError(
            f"{show(text)} holds the control character U+{ord(control[0]):04X}; text of a job file "
            "has tabs and line breaks at most, so remove it"
        )
    if node.style is not None:  # quoted, or a block: always text
        return text
    if _NULL.fullmatch(text) or text == "":
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return _whole(text)
    return _number(text) if _FLOAT.fullmatch(text) else text


def _whole(text: str) -> int:
    digits = text.lstrip("+-0")
    if len(digits) > len(str(_MAX_INT)) or not -_MAX_INT - 1 <= int(text) <= _MAX_INT:
        raise ValueError(
            f"{shorten(text)} is too large for a number of 64 bits (at most {_MAX_INT:,}); write a "
            "smaller one, or quote it for text"
        )
    return int(f"{text[0] if text[0] == '-' else ''}{digits or 0}")


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(
            f"{shorten(text)} is too large for a number (at most 1.8e308); write a smaller one, "
            "or quote it for text"
        )
    return number
