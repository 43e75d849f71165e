"""What counts as one class, for all tasks with labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.tasks.template import FieldTypeError, RecordError, described, text_in_field

_WHOLE = re.compile(r"(-?\d+)\.0+")
# What Python takes for a number beyond these is none in a file of data: "1_000", "infinity".
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NOT_FINITE = frozenset({"inf", "infinity"})
_LARGEST = 3.4028234663852886e38  # of fp32


def label_text(record: Mapping[str, Any], field: str) -> str:
    """The class of a record: the text of its label.

    The value is written as a template would write it (`template.value_text`), without white space
    around it, and a whole number has no decimals, whichever way a format writes it: `" pos"` and
    `"pos"` are one class, and so are 1, 1.0, `"1"` and `"1.0"`. True and false are the classes
    `true` and `false`. Letters count as they are: `Pos` is another class than `pos`.

    Raises:
        RecordError: there is no value: no such field, null, NaN, an empty text.
        FieldTypeError: it holds a list or a mapping, which name no one class.
    """
    value = record.get(field)
    text = text_in_field(value, field)
    if text is None:
        raise FieldTypeError(
            f"the label {field!r} holds {described(value)}; a label is one text, number, true or "
            "false. Name the field that holds one class, write a record for each, or, where all of "
            "them are right, take multi_label_classification"
        )
    text = text.strip()
    if not text:
        reason = f"record without a value in {field!r}"
        raise RecordError(reason, reason)
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def label_texts(record: Mapping[str, Any], field: str, separator: str | None) -> list[str]:
    """The classes of a record, each as `label_text` has it: a list of them, or a text.

    An empty list, or with a separator an empty text, is a record of no class; a missing value is
    none.

    Args:
        separator: what parts the classes in a text; None where a text is one class.

    Raises:
        RecordError: there is no value, or an empty one in a list.
        FieldTypeError: it holds what names no classes.
    """
    value = record.get(field)
    if isinstance(value, str) and separator is not None:
        value = [part for part in value.split(separator) if part.strip()]
    if isinstance(value, list):
        return [label_text({field: each}, field) for each in value]
    return [label_text(record, field)]


def number_value(record: Mapping[str, Any], field: str) -> float:
    """The number of a record, also where it is written as text.

    Raises:
        RecordError: there is none, or one that is not finite in fp32, in which a loss is taken.
        FieldTypeError: it holds a list or a mapping.
    """
    text = label_text(record, field)
    if text.lower().lstrip("+-") in _NOT_FINITE:
        raise _no_number(f"number that is not finite in {field!r}", text)
    if not _NUMBER.fullmatch(text):
        raise _no_number(f"record without a number in {field!r}", text)
    number = float(text)
    if abs(number) > _LARGEST:
        raise _no_number(f"number that is not finite in {field!r}", text)
    return number


def _no_number(reason: str, text: str) -> RecordError:
    return RecordError(f"{reason}: {text!r}", reason)


def number_of(label: str, labels: Sequence[str]) -> int:
    """The number of a class. Raises ValueError for one that is not known."""
    if label not in labels:
        raise ValueError(
            f"label {label!r} is not one of the {len(labels)} known: "
            f"{', '.join(labels[:20])}; all labels must occur in the training data"
        )
    return labels.index(label)
