"""Answers that are pieces of a context, as SQuAD has them: reading, placing and scoring them.

The measures are those of its evaluation (arXiv:1606.05250 and, for questions without an answer,
arXiv:1806.03822), from 0 to 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.tasks.template import FieldTypeError, RecordError, described

Span = dict[str, Any]
"""`text`, and `start`: the character of the context where it begins."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read_answers(value: object, field: str) -> list[Span]:
    """The answers to a question; none where it has none.

    `[{text: …, answer_start: …}]`, as SQuAD's files have them, or `{text: […], answer_start: […]}`,
    as tables of it do.

    Raises:
        RecordError: an answer is empty.
        FieldTypeError: it holds something else.
    """
    found = _in_rows(value)
    if not isinstance(found, list) or not all(map(_is_answer, found)):
        raise FieldTypeError(
            f"the field {field!r} holds {described(value)}; answers are a list of texts with the "
            "character where each begins, [{text: …, answer_start: …}], or a list of each, "
            "{text: […], answer_start: […]}. Name the field that holds them"
        )
    if not all(each["text"].strip() for each in found):
        reason = f"record with an empty answer in {field!r}"
        raise RecordError(reason, reason)
    return [{"text": each["text"], "start": each["answer_start"]} for each in found]


def _in_rows(value: object) -> object:
    """Columns of answers as a list of them; all else as it is."""
    texts, starts = (
        value.get(name) if isinstance(value, Mapping) else None for name in ("text", "answer_start")
    )
    if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
        return value
    pairs = zip(texts, starts, strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


def _is_answer(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    start = value.get("answer_start")
    return isinstance(value.get("text"), str) and type(start) is int


def place_answers(answers: Sequence[Span], context: str) -> list[Span]:
    """The same where they stand in a context that was cleaned: at their place, else at the nearest
    one, since line ends of two characters have become one.

    Raises:
        RecordError: one does not stand in it.
    """
    return [{"text": each["text"], "start": _nearest(context, **each)} for each in answers]


def _nearest(context: str, text: str, start: int) -> int:
    if start >= 0 and context.startswith(text, start):
        return start
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if not places:
        reason = "record with an answer that its context does not have"
        raise RecordError(f"{reason}: {text!r}", reason)
    return min(places, key=lambda place: abs(place - start))


def answer_scores(predicted: Sequence[str], accepted: Sequence[Sequence[str]]) -> dict[str, float]:
    """`exact_match` and `f1` of the words, each the mean over the questions of the best agreement
    with one of the accepted answers; of a question without any the empty text is right."""
    matches, overlaps = 0.0, 0.0
    for answer, right in zip(predicted, accepted, strict=True):
        words = normalised(answer).split()
        truths = [normalised(each).split() for each in right or [""]]
        matches += any(words == truth for truth in truths)
        overlaps += max(_overlap(words, truth) for truth in truths)
    return {"exact_match": matches / len(predicted), "f1": overlaps / len(predicted)}


def normalised(text: str) -> str:
    """In small letters, without punctuation and articles, a space between words."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _overlap(words: list[str], truth: list[str]) -> float:
    if not words or not truth:
        return float(words == truth)
    shared = (Counter(words) & Counter(truth)).total()
    return 2 * shared / (len(words) + len(truth))
