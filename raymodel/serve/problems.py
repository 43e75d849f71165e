"""What is wrong with a request, in the client's words: its field, the value seen, the rule.

Pydantic reports in Python's words, and once for every member of a union; here one report becomes
one sentence, as for job files in `spec/problems.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.serve.refusal import Refusal
from raymodel.spec.fields import nearest
from raymodel.spec.show import number_text, show

UNKNOWN_FIELD = "unknown_field"
"""The kind of error that `protocol.WireModel` raises; its context holds `name` and `known`."""
_KINDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}
_AS_JSON = {"True": "true", "False": "false", "None": "null"}
_COMPARED = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def refuse_request(errors: Sequence[Mapping[str, Any]], body: Any) -> Refusal:
    """400 for the first thing that is wrong.

    Args:
        errors: pydantic's, each with its place under `body`.
        body: the request, parsed.
    """
    placed = [(_path(error, body), error) for error in errors]
    # A value that is meant as one member of a union is refused by the others for its kind alone.
    meant = [item for item in placed if item[1]["type"] not in _KINDS]
    path, error = max(meant or placed, key=lambda item: len(item[0]))
    name = ".".join(map(str, path))
    if not meant:
        same = [other for where, other in placed if where == path]
        return _refuse(name, error["input"], f"give {_choice(same)}")
    return _refuse_one(name, error)


def _refuse_one(name: str, error: Mapping[str, Any]) -> Refusal:
    kind, value, context = error["type"], error.get("input"), error.get("ctx") or {}
    if kind == UNKNOWN_FIELD:
        close = nearest(str(context["name"]), context["known"])
        hint = f"; did you mean {close!r}?" if close else ""
        return Refusal(
            400,
            f"{ascii(name)[1:-1]} is no field of this request{hint} (known are "
            f"{', '.join(context['known'])})",
            param=name,
            code="unknown_field",
        )
    if kind == "missing":
        return Refusal(400, f"{name or 'the body'} is missing; it is required", param=name or None)
    if kind == "value_error":
        return _refuse(name, value, str(context["error"]))
    if kind in _COMPARED:
        bound, words = _COMPARED[kind]
        return _refuse(name, value, f"give a number of {words} {number_text(context[bound])}")
    if kind in ("too_short", "too_long"):
        rule = "at least {min_length}" if kind == "too_short" else "at most {max_length}"
        message = f"{name} has {len(value or ()):,} items; give {rule.format_map(context)}"
        return Refusal(400, message, param=name)
    if kind == "literal_error":
        expected = context["expected"]
        return _refuse(name, value, f"give {_AS_JSON.get(expected, expected)}")
    return _refuse(name, value, "that is not what this field takes")


def _refuse(name: str, value: Any, rule: str) -> Refusal:
    if not name:
        seen = "" if isinstance(value, dict) else f"the body is {show(value)}; "
        rule = rule.replace("give an object", "send one JSON object")
        return Refusal(400, seen + rule)
    return Refusal(400, f"{name} is {_seen(value)}: {rule}", param=name)


def _seen(value: Any) -> str:
    # JSON may hold half of a surrogate pair, which no response can be written with.
    return ascii(value) if isinstance(value, str) and len(value) <= 80 else ascii(show(value))[1:-1]


def _choice(errors: Sequence[Mapping[str, Any]]) -> str:
    return " or ".join(dict.fromkeys(_KINDS[error["type"]] for error in errors))


def _path(error: Mapping[str, Any], body: Any) -> list[str | int]:
    """Where the error lies in the body, without the names of a union's members."""
    path: list[str | int] = []
    here, location = body, [part for part in error["loc"] if part != "body"]
    for i, part in enumerate(location):
        is_absent = error["type"] in ("missing", "value_error") and hasattr(here, "keys")
        is_missing = is_absent and i == len(location) - 1 and part not in here
        if is_missing or _holds(here, part):
            path.append(part)
            here = None if is_missing else here[part]
    if error["type"] == UNKNOWN_FIELD:
        path.append(str(error["ctx"]["name"])[:80])
    return path


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return hasattr(here, "keys") and part in here.keys()  # noqa: SIM118 - a form is no dict
