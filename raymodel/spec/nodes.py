"""YAML text → PyYAML's node tree, within bounds that no job of a person comes near.

A few lines of YAML can stand for billions of values, and PyYAML follows them all: the bounds are
what keeps `raymodel check` of any file under a second. Nothing is constructed from tags.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.reader import ReaderError

from raymodel.spec.show import shorten

MAX_BYTES = 128 * 1024
"""Of a job file, or of all `--set` together: seventy times the longest job of this repository, and
a third of a second for PyYAML."""
MAX_NODES = 5_000
"""Keys and values, each as often as aliases repeat it: a list of a thousand sources."""
MAX_DEPTH = 24
"""Sections and lists in each other. The job language needs eight; Python allows a few hundred."""
_MAX_DETAIL = 200  # characters of the parser's own words, which may quote the file


class NodeError(Exception):
    """The text is not YAML of a job file's dialect; `line` and `column` are counted from 1."""

    def __init__(self, message: str, line: int, column: int = 1) -> None:
        super().__init__(message, line, column)
        self.message, self.line, self.column = message, line, column


def compose(text: str) -> yaml.Node | None:
    """The root node of the one YAML document in `text`; None when nothing is written.

    Raises:
        NodeError: bad syntax, a tag, or more than the bounds allow.
    """
    try:
        loader = _PlainLoader(text)
    except ReaderError as error:
        message = (
            f"the character U+{ord(text[error.position]):04X} has no place in YAML; remove it, or "
            "save the file as UTF-8 text"
        )
        raise NodeError(message, _line_of(text, error.position)) from error
    try:
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        raise NodeError(f"this is not YAML: {_detail(error)}", mark.line + 1) from error
    except (ValueError, OverflowError) as error:  # PyYAML's own chr() of an escape too large
        message = 'this is not YAML: an escape like "\\U00110000" names no character'
        raise NodeError(message, loader.get_mark().line + 1) from error
    return node


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes without YAML 1.1's implicit types, and stops at the bounds."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._check(self.peek_event())  # type: ignore[no-untyped-call]
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def _check(self, event: yaml.Event) -> None:
        self._num_nodes += 1
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _error(
                event,
                f"the tag {shorten(tag)!r} is not part of a job file; remove it, quote for text",
            )
        if self._num_nodes > MAX_NODES:
            raise _error(event, too_many_nodes())
        if self._depth >= MAX_DEPTH:
            raise _error(event, too_deep())


def too_many_nodes() -> str:
    """The message for more keys and values than a job file may hold."""
    return (
        f"more than {MAX_NODES:,} keys and values, aliases written out; a job file is written by "
        "a person, so name data by folders or patterns and keep lists short"
    )


def too_deep() -> str:
    """The message for sections and lists nested deeper than a job file may be."""
    return (
        f"more than {MAX_DEPTH} sections and lists inside each other; no field of a job lies so "
        "deep, so look for brackets or indents too many"
    )


def _error(event: yaml.Event, message: str) -> NodeError:
    mark = event.start_mark
    assert mark is not None  # of events that were parsed, as all of these are
    return NodeError(message, mark.line + 1, mark.column + 1)


def _detail(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    if r"'\t'" in problem:
        return "a tab stands where YAML wants spaces; indent with spaces"
    if "found another document" in problem or "single document" in (error.context or ""):
        problem += "; a job file is one, so remove the line `---`"
    return shorten(", ".join(part for part in (error.context, problem) if part), _MAX_DETAIL)


def _line_of(text: str, index: int) -> int:
    return len(f"{text[:index]}x".splitlines())
