"""Spans and scores of tags are those of seqeval 1.2.2, written down here as it gave them."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raymodel.chance import Chance
from raymodel.tasks.tags import (
    LabelScores,
    Span,
    check_tags,
    entity_scores,
    label_scores,
    scheme_of,
    spans_of,
)
from raymodel.tasks.template import RecordError

TYPES = ("PER", "LOC")
ALL_TAGS = ["O", *(f"{mark}-{label}" for mark in "BIES" for label in TYPES)]
READ = [
    # IOB2
    ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
    ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
    ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
    ("O I-PER I-PER", [("PER", 1, 3)]),
    ("I-PER", [("PER", 0, 1)]),
    ("O O", []),
    ("", []),
    ("B-time-of-day I-time-of-day", [("time-of-day", 0, 2)]),
    # IOB1
    ("I-PER I-PER B-PER I-LOC", [("PER", 0, 2), ("PER", 2, 3), ("LOC", 3, 4)]),
    # BIOES
    ("B-PER I-PER E-PER S-LOC", [("PER", 0, 3), ("LOC", 3, 4)]),
    ("S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),
    ("E-PER E-PER", [("PER", 0, 1), ("PER", 1, 2)]),
    ("B-PER E-LOC O E-LOC", [("PER", 0, 1), ("LOC", 1, 2), ("LOC", 3, 4)]),
    ("B-PER O", [("PER", 0, 1)]),
]
# What `recorded` gives of seqeval 1.2.2: `get_entities`, `precision_recall_fscore_support` and
# `accuracy_score` of seqeval.metrics.sequence_labeling.
RECORDED: dict[str, Any] = {
    "spans": "1cea98ff8390a25e91e4e57c7529e8fb979c35abf0b96dbacd3605e08cbf022c",
    "scores": {
        "BI": {
            "all": [0.6912637828668363, 0.6903854299025837, 0.6908243271879636, 0.7429555416405761],
            "by label": {
                "LOC": [0.70242656449553, 0.697084917617237, 0.6997455470737913, 789],
                "MISC": [0.6795511221945137, 0.6855345911949685, 0.6825297432686287, 795],
                "PER": [0.6921086675291074, 0.6885456885456885, 0.6903225806451613, 777],
            },
        },
        "BIES": {
            "all": [0.749419054996127, 0.7502908103916247, 0.7498546793257119, 0.7272425249169435],
            "by label": {
                "LOC": [0.7484885126964933, 0.7457831325301205, 0.7471333735666867, 830],
                "MISC": [0.7526753864447087, 0.7429577464788732, 0.7477849970466627, 852],
                "PER": [0.7472647702407003, 0.7614269788182831, 0.7542794036443954, 897],
            },
        },
    },
}


@pytest.mark.parametrize(("tags", "spans"), READ)
def test_spans_are_read_as_conlleval_reads_them(tags: str, spans: list[Any]) -> None:
    assert spans_of(tags.split()) == spans


def test_spans_are_those_of_seqeval_for_all_tags_of_four_words_and_thousands_of_texts() -> None:
    assert spans_digest(spans_of) == RECORDED["spans"]


def test_scores_are_those_of_seqeval() -> None:
    for marks, expected in RECORDED["scores"].items():
        truth, predicted = texts_with_guesses(marks)
        scores = entity_scores(truth=truth, predicted=predicted)
        assert list(scores.values()) == pytest.approx(expected["all"], rel=1e-12), marks
        assert list(scores) == ["precision", "recall", "f1", "accuracy"]
        by_label = label_scores(truth=truth, predicted=predicted)
        assert list(by_label) == list(expected["by label"])
        for label, numbers in expected["by label"].items():
            found = by_label[label]
            assert [found.precision, found.recall, found.f1, found.support] == pytest.approx(
                numbers, rel=1e-12
            )


def test_seqeval_gives_what_is_recorded() -> None:
    pytest.importorskip("seqeval", reason="pip install seqeval==1.2.2 to record the numbers anew")
    assert recorded() == RECORDED


def test_a_share_of_nothing_is_zero() -> None:
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert entity_scores(truth=[["O"]], predicted=[["O"]]) == nothing | {"accuracy": 1.0}
    assert entity_scores(truth=[], predicted=[]) == nothing | {"accuracy": 0.0}
    assert label_scores(truth=[["B-X"]], predicted=[["O"]]) == {
        "X": LabelScores(precision=0.0, recall=0.0, f1=0.0, support=1)
    }


def test_plain_tags_are_scored_word_by_word() -> None:
    truth, predicted = [["DET", "NOUN"], ["O", "O"]], [["DET", "VERB"], ["O", "NOUN"]]
    scores = entity_scores(truth=truth, predicted=predicted, scheme="plain")
    assert set(scores.values()) == {0.5}
    by_label = label_scores(truth=truth, predicted=predicted, scheme="plain")
    assert by_label["O"] == LabelScores(precision=1.0, recall=0.5, f1=2 / 3, support=2)
    assert spans_of(["O", "I-X"], "plain") == [Span("O", 0, 1), Span("I-X", 1, 2)]


def test_texts_of_different_lengths_are_not_scored() -> None:
    with pytest.raises(ValueError, match="zip"):
        entity_scores(truth=[["O"]], predicted=[["O", "O"]])


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        ("O B-PER I-PER", "BIO"),
        ("I-PER", "BIO"),
        ("O B-PER I-PER E-PER S-PER", "BIOES"),
        ("S-PER", "BIOES"),
        ("NOUN VERB , -LRB- PRP$", "plain"),
        ("O", "plain"),
        ("N V S I B", "plain"),
        ("X-PER Y-PER", "plain"),
    ],
)
def test_the_scheme_follows_from_all_names(names: str, scheme: str) -> None:
    assert scheme_of(names.split()) == scheme


@pytest.mark.parametrize(
    ("names", "others"),
    [
        ("O B-PER X-PER", "'X-PER'"),
        ("O B-PER I-PER B", "'B'"),
        ("B-PER I-", "'I-'"),
        ("B-X M-X E-X S-X", "'M-X'"),
        ("B-X I-X L-X U-X", "'L-X', 'U-X'"),
        ("O U-X", "'U-X'"),
        ("B I O", "'B', 'I'"),
        ("B M E S", "'B', 'E', 'M', 'S'"),
        ("B-PER NOUN", "'NOUN'"),
    ],
)
def test_marks_that_cannot_be_read_are_refused_with_what_to_write(names: str, others: str) -> None:
    with pytest.raises(ValueError, match=r"Rename the others: I- for M- \(BMES\)") as caught:
        scheme_of(names.split())
    assert str(caught.value).startswith(f"the tags {others}: ")


@pytest.mark.parametrize(
    ("words", "tags", "scheme", "reason"),
    [
        ("a b", "O", None, "record with more or fewer tags than words"),
        ("a", "O O", None, "record with more or fewer tags than words"),
        ("", "", None, "record without words"),
        ("a", "X-PER", "BIO", "record with a tag that is none of the scheme BIO"),
        ("a", "B", "BIOES", "record with a tag that is none of the scheme BIOES"),
        ("a", "E-PER", "BIO", "record with a tag that is none of the scheme BIO"),
    ],
)
def test_a_record_is_left_out_for_a_reason(words: str, tags: str, scheme: Any, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        check_tags(words.split(), tags.split(), scheme)
    assert caught.value.reason == reason


def test_an_empty_tag_is_no_tag() -> None:
    with pytest.raises(RecordError, match="word 1 has an empty tag"):
        check_tags(["a", "b"], ["O", ""])


def test_tags_of_the_scheme_are_taken() -> None:
    check_tags(["a", "b"], ["O", "B-X"], "BIO")
    check_tags(["a", "b"], ["E-X", "O"], "BIOES")
    check_tags(["a", "b"], ["X-PER", "B"], "plain")
    check_tags(["a", "b"], ["X-PER", "B"])


def texts(marks: str, count: int, kind: str) -> list[list[str]]:
    """Tags of texts of 0 to 20 words, for each mark and type the same chance."""
    tags = ["O", *(f"{mark}-{label}" for mark in marks for label in (*TYPES, "MISC"))]
    chance = Chance(kind, marks)
    return [
        [tags[index] for index in chance.integers(len(tags), int(chance.integers(21, 1)[0]))]
        for _ in range(count)
    ]


def texts_with_guesses(marks: str) -> tuple[list[list[str]], list[list[str]]]:
    """300 texts, and the same with three of ten tags taken from others."""
    truth, chance = texts(marks, 300, "truth"), Chance("guesses", marks)
    every = [tag for tags in truth for tag in tags]
    guesses = [
        [every[chance.integers(len(every), 1)[0]] if chance.is_true(0.3) else tag for tag in tags]
        for tags in truth
    ]
    return truth, guesses


def spans_digest(read: Callable[[list[str]], Sequence[tuple[str, int, int]]]) -> str:
    """Of the spans of 12,379 lists of tags: all of one to four words, and 5,000 by chance."""
    lists: list[list[str]] = [
        list(tags) for size in range(1, 5) for tags in itertools.product(ALL_TAGS, repeat=size)
    ]
    for marks in ("BI", "BIES"):
        lists += texts(marks, 2_500, "spans")
    spans = [[list(span) for span in read(tags)] for tags in lists]
    return hashlib.sha256(json.dumps(spans).encode()).hexdigest()


def recorded() -> dict[str, Any]:
    """Of seqeval itself, whose spans end with their last word, not after it."""
    from seqeval.metrics import sequence_labeling as seqeval

    def read(tags: list[str]) -> list[tuple[str, int, int]]:
        return [(label, start, last + 1) for label, start, last in seqeval.get_entities(tags)]

    scores = {}
    for marks in ("BI", "BIES"):
        pair = texts_with_guesses(marks)
        *micro, _ = seqeval.precision_recall_fscore_support(*pair, average="micro")
        *each, support = seqeval.precision_recall_fscore_support(*pair)
        rows = zip(*(values.tolist() for values in each), support.tolist(), strict=True)
        scores[marks] = {
            "all": [*map(float, micro), seqeval.accuracy_score(*pair)],
            "by label": dict(zip(sorted((*TYPES, "MISC")), map(list, rows), strict=True)),
        }
    return {"spans": spans_digest(read), "scores": scores}
