"""Documented functions out of Python source, by its syntax tree; nothing is run."""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


STATEMENTS: dict[type[ast.AST], str] = {
    ast.Assert: "assert",
    ast.AsyncFor: "for",
    ast.AsyncWith: "with",
    ast.For: "for",
    ast.If: "if",
    ast.Match: "match",
    ast.Raise: "raise",
    ast.Try: "try",
    ast.TryStar: "try",
    ast.While: "while",
    ast.With: "with",
}
"""Node → the word that begins the statement."""


class Function(NamedTuple):
    """One documented function."""

    line: int
    """Where it begins, its decorators included; the first line is 1."""
    fields: dict[str, str | list[str]]
    """`code`, the source with its signature and decorators but without the docstring, dedented;
    `docstring`, cleaned of its indentation; `name`; `returns`, what a call gives back: `value`,
    `nothing` (None) or `generator`; `statements`, those of `STATEMENTS` that it has, sorted."""


def read_functions(text: str) -> list[Function]:
    """Each documented function and method of a module, in the order of the source.

    Functions whose body is nothing but the docstring are left out: there is no code to explain.

    Raises:
        SyntaxError: the text is not Python of this interpreter's version.
        ValueError: the text holds null bytes.
        RecursionError, MemoryError: it is nested deeper than the parser goes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old modules are not our concern
        tree = ast.parse(text)
    # ast counts lines by these ends only; str.splitlines also splits at form feeds.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = [node for node in ast.walk(tree) if isinstance(node, _Function)]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    pairs = (_pair(node, lines) for node in found)
    return [pair for pair in pairs if pair is not None]


def _pair(node: _Function, lines: list[str]) -> Function | None:
    docstring = ast.get_docstring(node, clean=False)
    if docstring is None or len(node.body) < 2:
        return None
    comment, first_line = node.body[0], min([node.lineno, *(d.lineno for d in node.decorator_list)])
    shares_line = comment.lineno == node.lineno or node.body[1].lineno == comment.end_lineno
    cleaned = inspect.cleandoc(docstring)
    if shares_line or not cleaned or comment.end_lineno is None or node.end_lineno is None:
        return None
    before = lines[first_line - 1 : comment.lineno - 1]
    after = lines[comment.end_lineno : node.end_lineno]
    while after and not after[0].strip():
        after = after[1:]
    code = textwrap.dedent("\n".join([*before, *after])).rstrip()
    own = list(_own_nodes(node))
    fields: dict[str, str | list[str]] = {
        "code": code,
        "docstring": cleaned,
        "name": node.name,
        "returns": _returns(own),
        "statements": sorted({STATEMENTS[type(each)] for each in own if type(each) in STATEMENTS}),
    }
    return Function(first_line, fields)


def _returns(own: list[ast.AST]) -> str:
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        return "generator"
    values = [node.value for node in own if isinstance(node, ast.Return)]
    is_nothing = all(
        value is None or (isinstance(value, ast.Constant) and value.value is None)
        for value in values
    )
    return "nothing" if is_nothing else "value"


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """What lies in the body, but not in a function or class that is defined in it."""
    open_nodes: list[ast.AST] = [*function.body]
    while open_nodes:
        node = open_nodes.pop()
        yield node
        if not isinstance(node, _Scope):
            open_nodes.extend(ast.iter_child_nodes(node))
