"""Tags of words: what spans they mark, and how well predicted ones agree with the true ones.

A set of tags has one of three schemes, which is read off the names of all its tags together
(`scheme_of`):

- `BIO`: `B-PER` begins a span of the type PER, `I-PER` goes on with it, `O` is outside of all. Two
  ways of writing it share these names: in IOB2 every span begins with a B, in IOB1 only one that
  follows another of its type. Both are read alike.
- `BIOES`: also `E-PER`, the last word of a span, and `S-PER`, a span of one word.
- `plain`: the names mark nothing, as parts of speech do. Each word is a span of its own.

Spans and scores are those of seqeval 1.2.2 in its default mode, which is that of the `conlleval`
script of CoNLL-2000 (https://github.com/chakki-works/seqeval). It is no dependency: it was last
released in 2020, as a source archive alone, and what is needed of it is a rule of one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from raymodel.tasks.template import RecordError

Scheme = Literal["plain", "BIO", "BIOES"]

OUTSIDE = "O"
_TYPED = re.compile(r"[BIES]-.+", re.DOTALL)
# Marks of this and of related schemes (BMES, BILOU), with a type or without: a set that holds
# nothing else is meant as marks, and not as plain names.
_MARK = re.compile(r"[BIESMLU](-.*)?", re.DOTALL)
_RULE = (
    "where tags mark spans, each is O, or B-, I-, E- or S- before a type, like B-PER. Rename the "
    "others: I- for M- (BMES), E- for L- and S- for U- (BILOU), B-X for B; or, where the tags mark "
    "no spans, those that begin like one"
)


class Span(NamedTuple):
    """Words of one type that belong together."""

    label: str
    """The type: the tag without its mark. With the scheme `plain` the tag."""
    start: int
    """The first word."""
    end: int
    """The word after the last."""


@dataclass(frozen=True, kw_only=True)
class LabelScores:
    """How well the spans of one type were found."""

    precision: float
    recall: float
    f1: float
    support: int
    """True spans of this type."""


def scheme_of(names: Iterable[str]) -> Scheme:
    """The scheme of a set of tags.

    1. Each is `O` or a mark of B, I, E, S and a type: `BIOES` with an E or S among them, else
       `BIO`.
    2. None is such, and at least one could be no mark of any scheme: `plain`.

    Raises:
        ValueError: neither: some names mark spans and others do not, or they are marks that are
            not read here (`M-PER`, `U-PER`) or that have no type (`B`).
    """
    marks = sorted(set(names) - {OUTSIDE})
    others = [name for name in marks if not _TYPED.fullmatch(name)]
    if marks and not others:
        return "BIOES" if any(name[0] in "ES" for name in marks) else "BIO"
    is_mixed = len(others) < len(marks)
    if is_mixed or (marks and all(_MARK.fullmatch(name) for name in marks)):
        raise ValueError(f"the tags {', '.join(map(repr, others[:10]))}: {_RULE}")
    return "plain"


def check_tags(words: Sequence[str], tags: Sequence[str], scheme: Scheme | None = None) -> None:
    """Whether these are the tags of these words.

    Args:
        words: of one text.
        tags: theirs.
        scheme: that of all tags together; None where it is not known yet.

    Raises:
        RecordError: there are more or fewer tags than words, or no words; a tag is empty, or none
            that the scheme allows. The record is left out, for the error's reason.
    """
    if len(words) != len(tags):
        raise RecordError(
            f"{len(words)} words with {len(tags)} tags; each word must have one tag",
            "record with more or fewer tags than words",
        )
    if not words:
        raise RecordError("a text without words", "record without words")
    for index, tag in enumerate(tags):
        if not tag:
            raise RecordError(f"word {index} has an empty tag", "record with an empty tag")
        if not _is_allowed(tag, scheme):
            raise RecordError(
                f"the tag {tag!r} of word {index} is none of the scheme {scheme}; {_RULE}",
                f"record with a tag that is none of the scheme {scheme}",
            )


def spans_of(tags: Sequence[str], scheme: Scheme = "BIO") -> list[Span]:
    """The spans that tags mark, in order.

    A word goes on with the span of the word before when it is marked I or E, the word before B or
    I, and both with the same type. Every other word with a mark begins a span, so what breaks the
    scheme is read too: an I after O, or after another type, begins one.
    """
    if scheme == "plain":
        return [Span(tag, index, index + 1) for index, tag in enumerate(tags)]
    spans: list[Span] = []
    mark_before, label_before = OUTSIDE, ""
    for index, tag in enumerate(tags):
        mark, label = tag[0], tag[2:]
        if mark in "IE" and mark_before in "BI" and label == label_before:
            spans[-1] = spans[-1]._replace(end=index + 1)
        elif mark != OUTSIDE:
            spans.append(Span(label, index, index + 1))
        mark_before, label_before = mark, label
    return spans


def entity_scores(
    *, truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme = "BIO"
) -> dict[str, float]:
    """`precision`, `recall` and `f1` of the spans, `accuracy` of the tags, each from 0 to 1.

    A span is found when its type, its first and its last word are right; spans of all types are
    counted together ("micro"). A share of nothing is 0. With the scheme `plain` all four are the
    same number.

    Args:
        truth: the tags of each text.
        predicted: theirs too, one for each word.
        scheme: of the true tags.
    """
    found, given, true = (counts.total() for counts in _counts(truth, predicted, scheme))
    scores = _scores(found, given, true)
    pairs = [
        (tag, other)
        for tags, others in zip(truth, predicted, strict=True)
        for tag, other in zip(tags, others, strict=True)
    ]
    return {
        "precision": scores.precision,
        "recall": scores.recall,
        "f1": scores.f1,
        "accuracy": _share(sum(tag == other for tag, other in pairs), len(pairs)),
    }


def label_scores(
    *, truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme = "BIO"
) -> dict[str, LabelScores]:
    """The same of the spans of each type that occurs in either, sorted by type."""
    found, given, true = _counts(truth, predicted, scheme)
    return {
        label: _scores(found[label], given[label], true[label]) for label in sorted(given | true)
    }


def _is_allowed(tag: str, scheme: Scheme | None) -> bool:
    if scheme is None or scheme == "plain" or tag == OUTSIDE:
        return True
    return _TYPED.fullmatch(tag) is not None and (scheme == "BIOES" or tag[0] in "BI")


def _counts(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Spans by type: those that are in both, the predicted, the true."""
    found: Counter[str] = Counter()
    given: Counter[str] = Counter()
    true: Counter[str] = Counter()
    for tags, others in zip(truth, predicted, strict=True):
        true_spans, given_spans = set(spans_of(tags, scheme)), set(spans_of(others, scheme))
        found.update(span.label for span in true_spans & given_spans)
        given.update(span.label for span in given_spans)
        true.update(span.label for span in true_spans)
    return found, given, true


def _scores(found: int, given: int, true: int) -> LabelScores:
    return LabelScores(
        precision=_share(found, given),
        recall=_share(found, true),
        f1=_share(2 * found, given + true),
        support=true,
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
