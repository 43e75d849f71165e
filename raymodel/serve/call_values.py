"""Values of arguments as models write them that write no JSON."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from raymodel.serve.bodies import MAX_DEPTH, depth_of

_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
_AS_JSON = {"True": "true", "False": "false", "None": "null"}
_WORDS = {"true": True, "false": False, "null": None}
_MOST_BITS = 4096  # hexadecimal ones may have more than Python writes in decimals
_WHOLE = re.compile(r"-?\d+\.0+")


def write_json(value: Any) -> str:
    """A value as JSON, which is Unicode."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair is none; there are escapes for it.
    return text if is_unicode(text) else json.dumps(value, allow_nan=False)


def schema_of(key: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of one argument, with what it may refer to; empty where the schema says nothing of it."""
    properties = schema.get("properties")
    found = properties.get(key) if isinstance(properties, Mapping) else None
    if found is None:
        found = schema.get("additionalProperties")
    if not isinstance(found, Mapping):
        return {}
    kept = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {**kept, **found}


def types_of(schema: Mapping[str, Any]) -> set[str]:
    """The types of JSON Schema that a value may have; all where it says nothing of them."""
    return set(_types(schema, schema, set())) or _TYPES


def read_value(text: str, schema: Mapping[str, Any]) -> Any:
    """A value that stands bare, as a text does.

    It is what its schema says that it may be: of several the one that it looks like, and the text
    itself where it looks like none of them.
    """
    types = types_of(schema)
    if types == {"string"}:
        return text
    bare = text.strip()
    value = _read_bare(bare, types)
    if value is not _NONE and (_has_type(value, types) or "string" not in types):
        return value
    return text


def fit_value(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value that is a text though it may be none is read as one that stands bare."""
    is_bare = isinstance(value, str) and "string" not in types_of(schema)
    return read_value(value, schema) if is_bare else value


def read_python(text: str) -> Any:
    """A value as Python writes it.

    Raises:
        ValueError: it is none that JSON has.
    """
    try:
        return _literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not Python") from error


_NONE = object()


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _types(schema: Any, root: Mapping[str, Any], seen: set[int]) -> Iterator[str]:
    # A client's schema may be anything, and may name itself.
    if not isinstance(schema, Mapping) or id(schema) in seen:
        return
    seen.add(id(schema))
    given = schema.get("type")
    if given is not None:
        named = given if isinstance(given, list) else [given]
        yield from (each for each in named if isinstance(each, str) and each in _TYPES)
        return
    values = _list(schema.get("enum"))
    yield from map(_type_of, [*values, schema["const"]] if "const" in schema else values)
    for choice in ("anyOf", "oneOf", "allOf"):
        for each in _list(schema.get(choice)):
            yield from _types(each, root, seen)
    if isinstance(schema.get("$ref"), str):
        yield from _types(_resolved(schema["$ref"], root), root, seen)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within a schema points to; None where there is nothing."""
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "array"
    return "object"


def _has_type(value: Any, types: set[str]) -> bool:
    kind = _type_of(value)
    return kind in types or (kind == "integer" and "number" in types)


def _read_bare(text: str, types: set[str]) -> Any:
    """A value of JSON or of Python; `_NONE` of other texts."""
    text = _AS_JSON.get(text, text)
    if "number" not in types and _WHOLE.fullmatch(text):
        text = text.partition(".")[0]  # which is an integer too, as JSON Schema has it
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        if text[:1] not in ("[", "{"):
            return _NONE
        try:
            value = read_python(text)
        except ValueError:
            return _NONE
    return value if depth_of(value) <= MAX_DEPTH else _NONE


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _literal(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=bool() | str() | None as value):
            return value
        case ast.Constant(value=int() as value) if value.bit_length() <= _MOST_BITS:
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -_literal(ast.Constant(value))
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_literal(each) for each in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(k): _literal(v) for k, v in zip(keys, values, strict=True)}
    raise ValueError("not a value of JSON")


def _key(node: ast.AST | None) -> str:
    match node:
        case ast.Constant(value=str() as key):
            return key
    raise ValueError("a key is no text")
