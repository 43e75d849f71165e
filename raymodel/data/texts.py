"""The texts among the values of a record: all of them together, cleaned, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.cleaning.media import Picture, Sound
from raymodel.data.cleaning.record import Record
from raymodel.data.roles import Value
from raymodel.tasks.fields import Fields
from raymodel.tasks.squad import place_answers


def texts_of(values: Mapping[str, Any], fields: Fields) -> Iterator[str]:
    """All that people wrote, but for what is given word by word: texts, lists of them, and the
    turns of conversations, whoever says them."""
    for role, field in fields.items():
        if field.kind == "text":
            yield values[role]
        elif field.kind == "texts":
            yield from values[role]
        elif field.kind == "messages":
            yield from (turn["content"] for turn in values[role])


def clean_values(
    values: Mapping[str, Any], fields: Fields, cleaner: Cleaner
) -> tuple[dict[str, Value], Record]:
    """The values of a record after the steps of a job, with what these changed and looked at.
    Answers that are pieces of a text are changed as it is, and found again in it.

    Raises:
        RecordError: a step leaves the record out, or an answer is no longer in its text.
        StepError: a step of the user's own failed.
    """
    images, sounds = (_files_of(values, fields, kind) for kind in ("image", "audio"))
    record = cleaner.clean([*texts_of(values, fields)], images, sounds)
    cleaned = _with_texts(values, fields, record.texts) if record.changed else dict(values)
    given = str(next(iter(cleaned.values())))
    for role, field in fields.items():
        if field.kind == "answers":
            pieces = [each | {"text": cleaner.clean_piece(each["text"])} for each in values[role]]
            cleaned[role] = place_answers(pieces, given)
    return cleaned, record


def comparable(
    values: Mapping[str, Value], fields: Fields, cleaner: Cleaner, record: Record
) -> dict[str, Value]:
    """The values of a record as they are compared with those of others: of images and sounds, where
    the job asks for that, a digest of what is in their files.

    Raises:
        RecordError: one cannot be decoded.
    """
    if not cleaner.compares_decoded:
        return dict(values)
    files: dict[str, Iterator[Picture | Sound]] = {
        "image": iter(record.pictures),
        "audio": iter(record.sounds),
    }
    return {
        role: next(files[field.kind]).content if field.kind in files else values[role]
        for role, field in fields.items()
    }


def _files_of(values: Mapping[str, Any], fields: Fields, kind: str) -> list[bytes]:
    return [values[role] for role, field in fields.items() if field.kind == kind]


def _with_texts(
    values: Mapping[str, Any], fields: Fields, texts: Sequence[str]
) -> dict[str, Value]:
    """The same values with other texts, which `texts_of` would give in this order."""
    left, replaced = iter(texts), dict(values)
    for role, field in fields.items():
        if field.kind == "text":
            replaced[role] = next(left)
        elif field.kind == "texts":
            replaced[role] = [next(left) for _ in values[role]]
        elif field.kind == "messages":
            replaced[role] = [turn | {"content": next(left)} for turn in values[role]]
    return replaced
