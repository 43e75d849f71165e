"""What counts as one class, for all tasks with labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.tasks.template import FieldTypeError, RecordError, described, text_in_field

_WHOLE = re.compile(r"(-?\d+)\.0+")


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
            "false. Name the field that holds one class, or write a record for each"
        )
    text = text.strip()
    if not text:
        reason = f"record without a value in {field!r}"
        raise RecordError(reason, reason)
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def number_of(label: str, labels: Sequence[str]) -> int:
    """The number of a class. Raises ValueError for one that is not known."""
    if label not in labels:
        raise ValueError(
            f"label {label!r} is not one of the {len(labels)} known: "
            f"{', '.join(labels[:20])}; all labels must occur in the training data"
        )
    return labels.index(label)
