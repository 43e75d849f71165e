"""The roles of a record: what a task wants of each, and what a source names for it.

`fields: {text: "{title}: {body}", label: topic}` in a job file names a template for every text,
and a field of the record for everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from raymodel.spec.fields import nearest
from raymodel.tasks.template import template_fields

if TYPE_CHECKING:
    from raymodel.data.spec import SourceSpec

Kind = Literal[
    "text",
    "texts",
    "label",
    "labels",
    "number",
    "image",
    "audio",
    "mask",
    "objects",
    "words",
    "tags",
    "answers",
    "messages",
]
"""`text`: a template. `texts`: a list of texts, each a document of its own. `label`: one class.
`labels`: any number of classes. `number`: a finite one. `image`, `audio`, `mask`: encoded bytes, or
the path of a file below the source; a mask is an image whose pixels are numbers of classes.
`objects`: labels with the box of each, see `objects.py`. `words`: a text as the list of its words.
`tags`: a class for each word. `answers`: pieces of the first role, and where they begin.
`messages`: a conversation, see `conversation.py`."""

TEXT_KINDS: frozenset[Kind] = frozenset({"text", "texts", "messages"})
"""Those whose values are what people wrote, whole: cleaning steps see them."""
FILE_KINDS: frozenset[Kind] = frozenset({"image", "audio", "mask"})
"""Those whose values are files."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """What a task wants of one role."""

    kind: Kind
    default: str | None = None
    """What stands for the role where a source says nothing; None where it has to. Empty where each
    record tells it, as conversations do."""
    keeps: Literal["start", "end"] = "start"
    """Of a text: which end stays when it is too long."""
    is_target: bool = False
    """What the model must answer, which a request does not have. A conversation is none: a request
    has one too, without the last answer."""
    is_optional: bool = False
    """Whether a job may do without it: then none of its sources names it."""

    @property
    def is_label(self) -> bool:
        """Whether it is the one answer to all that the model is given: a second record with the
        same input and answer is a duplicate, and one with another answer contradicts it."""
        return self.kind in ("label", "labels", "number", "answers")


Fields = Mapping[str, Field]
"""By role. The first is what the model is given: equal ones fall on one side of the holdout."""

PLAIN_TEXT: Fields = MappingProxyType({"text": Field(kind="text", default="{text}")})
PLAIN_IMAGE: Fields = MappingProxyType({"image": Field(kind="image", default="image")})
PLAIN: Mapping[str, Fields] = MappingProxyType({"text": PLAIN_TEXT, "image": PLAIN_IMAGE})
"""What `prepare` reads, by the modality of its rows."""


def used_fields(fields: Fields, sources: Sequence[SourceSpec]) -> Fields:
    """Without the optional roles that no source names."""
    return {
        role: field
        for role, field in fields.items()
        if not field.is_optional or any(role in source.fields for source in sources)
    }


def reference_of(source: SourceSpec, role: str, field: Field) -> str:
    """The template, or the name of the record's field, that stands for a role."""
    named = source.fields.get(role, field.default)
    assert named is not None, "find_wrong_roles asks for what has no default"
    return named


def find_wrong_roles(source: SourceSpec, fields: Fields, reader: str) -> Iterator[tuple[str, str]]:
    """Role → what is wrong with what a source says of it.

    Args:
        fields: the roles that there are.
        reader: whose they are, such as `causal_lm` or `prepare`.
    """
    for role in source.fields:
        if role not in fields:
            close = nearest(role, fields)
            hint = f"; did you mean {close!r}?" if close else ""
            yield role, f"{reader} has no role {role!r}, it has {', '.join(fields)}{hint}"
    for role, field in fields.items():
        named = source.fields.get(role, field.default)
        if named is None and field.is_optional:
            continue
        if named is None:
            example = f'"{{{role}}}"' if field.kind == "text" else role
            what = "a template over the record's fields" if field.kind == "text" else "a field"
            yield (
                role,
                f"source {source.path!r} says nothing of the role `{role}`, which {reader} needs; "
                f"write {what}, such as fields: {{{role}: {example}}}",
            )
        elif field.kind == "text":
            yield from _wrong_template(role, named)
        elif "{" in named:
            yield role, f"{named!r} is a template; `{role}` takes a field's name, without braces"


def find_wrong_sources(
    sources: Sequence[SourceSpec], fields: Fields, reader: str
) -> Iterator[tuple[int, str]]:
    """The number of a source → what it says otherwise than the others, or of no role there is.

    Args:
        fields: the roles that there are.
        reader: whose they are.
    """
    has_labels = any(field.kind == "labels" for field in fields.values())
    for role in used_fields(fields, sources):
        lacking = [i for i, each in enumerate(sources) if role not in each.fields]
        if fields[role].is_optional and lacking:
            yield (
                lacking[0],
                f"source {sources[lacking[0]].path!r} says nothing of the role `{role}`, which "
                "another one names; name it in all sources, or in none",
            )
    for index, source in enumerate(sources):
        if source.label_separator is not None and not has_labels:
            yield (
                index,
                f"`label_separator` parts the classes of a record, and {reader} has no role of "
                "several classes; leave it out",
            )


def _wrong_template(role: str, template: str) -> Iterator[tuple[str, str]]:
    try:
        names = template_fields(template)
    except ValueError as error:
        yield role, str(error)
        return
    if not names:
        written = template.strip() or "text"
        yield (
            role,
            f"the template {template!r} names no field; write it in braces, like {{{written}}}",
        )
