"""Looks into the models of a job file: which field a path names, and its type in words."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from raymodel.spec.base import Spec
from raymodel.spec.document import Path
from raymodel.spec.quantity import Quantity
from raymodel.spec.show import MOST_CHARS, number_text, show

_PLAIN = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Any: "any value",
}
_BOUNDS: tuple[tuple[type, str], ...] = (
    (annotated_types.Ge, "ge"),
    (annotated_types.Gt, "gt"),
    (annotated_types.Le, "le"),
    (annotated_types.Lt, "lt"),
)
_BOUND_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Field:
    """What a path names: its type, and its entry in the model that holds it."""

    annotation: Any
    info: FieldInfo | None = None
    """None for the root, list items and the values of free keys."""

    @property
    def section(self) -> type[Spec] | None:
        """The model that a mapping at this place is read as."""
        return next((kind for kind in kinds(self.annotation) if _is_section(kind)), None)

    def section_called(self, name: object) -> type[Spec] | None:
        """Of sections that are told apart by their `name`, the one with this; else `section`."""
        sections = [kind for kind in kinds(self.annotation) if _is_section(kind)]
        return next((kind for kind in sections if own_name(kind) == name), self.section)

    @property
    def sections(self) -> list[type[Spec]]:
        """The models that a mapping at this place, else an item of its list or of its free keys, is
        read as: several where they are told apart by their `name`."""
        found = [kind for kind in kinds(self.annotation) if _is_section(kind)]
        inner = (Field(item).sections for kind in kinds(self.annotation) for item in _items(kind))
        return found or next(filter(None, inner), [])

    @property
    def is_list(self) -> bool:
        """Whether a list may stand at this place."""
        return any(get_origin(kind) is tuple for kind in kinds(self.annotation))

    @property
    def quantity(self) -> Quantity | None:
        """How the number is written, where it has a unit or a short form."""
        marks = self.info.metadata if self.info else []
        return next((mark for mark in marks if isinstance(mark, Quantity)), None)

    @property
    def in_words(self) -> str:
        """The type in words, with its bounds."""
        return in_words(self.info.rebuild_annotation() if self.info else self.annotation)

    @property
    def description(self) -> str:
        """The docstring of the field, on one line."""
        return " ".join((self.info.description or "").split()) if self.info else ""


def kinds(annotation: Any) -> list[Any]:
    """The members of a (possibly annotated, optional) union, without None."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in kinds(member)]
    return [] if annotation is type(None) else [annotation]


def find_field(model: type[Spec], path: Path) -> Field | None:
    """The field that `path` names below `model`; None when there is no such field."""
    field = Field(model)
    for part in path:
        found = _step(field, part)
        if found is None:
            return None
        field = found
    return field


def walk_fields(model: type[Spec], prefix: Path = ()) -> Iterator[Path]:
    """The paths of all fields below `model`, sections before what they hold; not into lists."""
    for name, info in model.model_fields.items():
        path = (*prefix, name)
        yield path
        section = Field(info.annotation).section
        if section is not None:
            yield from walk_fields(section, path)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if any is like it. What is longer than a name has none."""
    if len(name) > MOST_CHARS:
        return None
    return next(iter(difflib.get_close_matches(name, dict.fromkeys(known), n=1, cutoff=0.6)), None)


def in_words(annotation: Any) -> str:
    """A type as a job file's author would say it: `int | None` → "a whole number"."""
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        for mark in marks:
            if isinstance(mark, Quantity):
                return mark.words + _bounds_in_words(marks, mark.unit)
        return in_words(base) + _bounds_in_words(marks)
    members = kinds(annotation)
    names = [own_name(member) for member in members]
    if len(names) > 1 and all(names):
        return f"one of {', '.join(map(str, names))}, or a section with such a `name`"
    if members != [annotation]:
        return " or ".join(in_words(member) for member in _union_members(annotation))
    return _PLAIN.get(annotation) or _composite_in_words(annotation)


def own_name(kind: Any) -> str | None:
    """The one `name` that a section can have, by which it is told from others; None without."""
    info = kind.model_fields.get("name") if _is_section(kind) else None
    choices = get_args(info.annotation) if info and get_origin(info.annotation) is Literal else ()
    return str(choices[0]) if len(choices) == 1 else None


@dataclass(frozen=True)
class WrittenByName:
    """Marks sections that are told apart by their `name` and can be written as the name alone, so
    that editors take that too."""

    takes_own: bool = False
    """Whether the name can be that of a part of the user's own, of which nothing is known."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        sections = handler(schema)
        own: dict[str, Any] = {"type": "string", "pattern": ":"}
        of_own = {"type": "object", "properties": {"name": own}, "required": ["name"]}
        names = {"enum": sorted(sections["discriminator"]["mapping"])}
        return {"anyOf": [names, sections, *([own, of_own] if self.takes_own else [])]}


def by_name(value: Any, sections: Iterable[type[Spec]], what: str) -> Any:
    """Before sections that are told apart by their `name` are read: a name alone is one of them.

    Args:
        what: they are, such as `a task`.

    Raises:
        ValueError: there is none of that name.
    """
    names = [str(own_name(section)) for section in sections]
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(value, Spec) or (isinstance(name, str) and name in names):
        return {"name": value} if isinstance(value, str) else value
    if not isinstance(name, str):
        raise ValueError(
            f"{show(value)} is not {what}; write one of {', '.join(names)}, or a section with such "
            "a `name`"
        )
    close = nearest(name, names)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(f"{show(name)} is not {what}{hint} (known are {', '.join(names)})")


def _items(kind: Any) -> tuple[Any, ...]:
    """What the items of a list, or the values of free keys, are read as."""
    if get_origin(kind) is tuple:
        return get_args(kind)[:1]
    return get_args(kind)[1:] if get_origin(kind) is dict else ()


def _step(field: Field, part: str | int) -> Field | None:
    for kind in kinds(field.annotation):
        if _is_section(kind) and part in kind.model_fields:
            info = kind.model_fields[part]
            return Field(info.annotation, info)
        if get_origin(kind) is dict and isinstance(part, str):
            return Field(get_args(kind)[1])
        if get_origin(kind) is tuple and isinstance(part, int):
            return Field(get_args(kind)[0])
    return None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Spec)


def _union_members(annotation: Any) -> list[Any]:
    return [member for member in get_args(annotation) if member is not type(None)]


def _bounds_in_words(marks: Iterable[Any], unit: str = "") -> str:
    bounds = {
        attribute: number_text(getattr(mark, attribute)) + unit
        for mark in _unfolded(marks)
        for kind, attribute in _BOUNDS
        if isinstance(mark, kind)
    }
    if set(bounds) == {"ge", "le"}:
        return f", from {bounds['ge']} to {bounds['le']}"
    said = [f"{_BOUND_WORDS[attribute]} {number}" for attribute, number in bounds.items()]
    return f", {' and '.join(said)}" if said else ""


def _unfolded(marks: Iterable[Any]) -> Iterator[Any]:
    """The marks, with what a `Field(ge=…)` inside a union or list holds in its place."""
    for mark in marks:
        yield from mark.metadata if isinstance(mark, FieldInfo) else (mark,)


def _composite_in_words(annotation: Any) -> str:
    quantity = getattr(annotation, "quantity", None)
    if isinstance(quantity, Quantity):
        return quantity.words
    if get_origin(annotation) is Literal:
        choices = [str(choice) for choice in get_args(annotation)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if get_origin(annotation) is tuple:
        return f"a list, each item {in_words(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"a section of free keys, each {in_words(get_args(annotation)[1])}"
    if _is_section(annotation):
        return f"a section ({', '.join(annotation.model_fields)})"
    return str(getattr(annotation, "__name__", annotation))
