"""YAML text → plain data, with the line of every key.

The dialect is YAML 1.2's core schema with decimal, finite numbers, read through PyYAML's node tree
(which is safe: nothing is constructed from tags). PyYAML's own YAML 1.1 rules hold traps for a job
file: `1e-3` is text, `on` and `no` are booleans, `1:30` is ninety, and the second of two equal keys
wins silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from raymodel.errors import SpecError

Path = tuple[str | int, ...]
"""Where a value stands in a job file: keys, and indexes of list items."""

_NULL = re.compile(r"null|Null|NULL|~")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def dotted(path: Path) -> str:
    """`("finetune", "sources", 0)` → `"finetune.sources.0"`, as `--set` writes it."""
    return ".".join(str(part) for part in path)


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


def parse_document(text: str, source: str, *, has_lines: bool = True) -> Document:
    """Parses one YAML document.

    Args:
        text: The YAML.
        source: The file's name, as error messages show it.
        has_lines: False for a text that is no file, such as the value of `--set`.

    Raises:
        SpecError: Bad syntax, a duplicate or non-text key, a key with nothing after it, or a tag;
            with the line.
    """
    try:
        root = yaml.compose(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Position(source, mark.line + 1 if mark and has_lines else None)
        detail = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{where}: this is not YAML: {detail}") from error
    except yaml.YAMLError as error:  # a character that YAML forbids; it carries no line
        raise SpecError(f"{source}: this is not YAML: {error}") from error
    if root is None:
        raise SpecError(f"{source}: nothing is written here; `raymodel init` writes a first job")
    builder = _Builder(source, has_lines)
    return Document(builder.build(root, ()), builder.positions)


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes without YAML 1.1's implicit types; `_scalar` gives them 1.2's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Builder:
    """Walks a node tree once, collecting data and positions."""

    def __init__(self, source: str, has_lines: bool) -> None:
        self.source = source
        self.has_lines = has_lines
        self.positions: dict[Path, Position] = {}
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.positions.setdefault(path, self._position(node))
        if any(node is outer for outer in self._open):
            raise self._error(node, f"{dotted(path)} contains itself; write its values out")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                self._refuse_tag(node, "map")
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, "seq")
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            self._refuse_tag(node, "str")
            return _scalar(node)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
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
                    f"{dotted(here)}: nothing is written after `{key}:`; write its value, "
                    "`{}` for a section of defaults, or `null` for none",
                )
            data[key] = self.build(value_node, here)
        return data

    def _key(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            value = _scalar(node)
            if isinstance(value, str):
                return value
            raise self._error(node, f'the key {node.value} is not text; quote it: "{node.value}"')
        raise self._error(node, "a key must be text; found a list or a section in its place")

    def _refuse_tag(self, node: yaml.Node, plain: str) -> None:
        if node.tag != f"tag:yaml.org,2002:{plain}":
            raise self._error(
                node, f"the tag {node.tag!r} is not part of a job file; remove it, quote for text"
            )

    def _position(self, node: yaml.Node) -> Position:
        if not self.has_lines:
            return Position(self.source)
        return Position(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def _error(self, node: yaml.Node, message: str) -> SpecError:
        return SpecError(f"{self._position(node)}: {message}")


def _is_blank(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value == ""


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text: str = node.value
    if node.style is not None:  # quoted, or a block: always text
        return text
    if _NULL.fullmatch(text) or text == "":
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
