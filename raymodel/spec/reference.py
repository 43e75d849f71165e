"""`raymodel describe`: the fields of a section, out of the models themselves."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from raymodel.errors import SpecError
from raymodel.spec.base import Operational, Spec
from raymodel.spec.document import Path, dotted
from raymodel.spec.fields import Field, find_field, own_name
from raymodel.spec.problems import unknown_key
from raymodel.spec.show import show

_WIDTH = 96


def describe(model: type[Spec], name: str = "") -> str:
    """The reference of one field or section, or of the whole job file.

    Args:
        model: The root model.
        name: Dotted path, such as `pretrain.optimizer`. Items of a list need no index:
            `prepare.sources.path`, though that of a message, `prepare.sources.0.path`, does too.

    Raises:
        SpecError: No such field; the message holds the nearest one.
    """
    field, path = Field(model), tuple(name.split(".")) if name else ()
    for depth, part in enumerate(path):
        if not (field.is_list and part.isdecimal()):
            field = _enter(field, path[:depth], part)
    return "\n".join(_lines(name, field))


def _enter(field: Field, path: Path, part: str) -> Field:
    sections = field.sections
    if not sections:
        raise SpecError(f"{dotted(path)} is {field.in_words}; it has no field {show(part)}")
    for section in sections:
        found = find_field(section, (part,))
        if found is not None:
            return found
    raise SpecError(f"{dotted((*path, part))}: {unknown_key((part,), sections[0])}")


def _lines(name: str, field: Field) -> Iterator[str]:
    if field.info is not None:
        yield from _entry(name, field)
    for index, section in enumerate(field.sections):
        if index or field.info is not None:
            yield ""
        own = own_name(section) if len(field.sections) > 1 else None
        yield from _wrapped(f"{own}: " * bool(own) + (inspect.getdoc(section) or ""), "")
        for key, info in section.model_fields.items():
            if not own or key != "name":
                yield ""
                yield from _entry(key, Field(info.annotation, info), "  ")


def _entry(name: str, field: Field, indent: str = "") -> Iterator[str]:
    assert field.info is not None
    notes = [_default(field.info)]
    if any(isinstance(mark, Operational) for mark in field.info.metadata):
        notes.append("may change when a run goes on")
    yield from _wrapped(f"{name}: {field.in_words} [{'; '.join(notes)}]", indent)
    yield from _wrapped(field.description, indent + "    ")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, Spec):
        return "optional"
    if isinstance(value, tuple | dict):
        return f"default: {json.dumps(value)}"
    return f"default: {value if isinstance(value, str) else show(value)}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
