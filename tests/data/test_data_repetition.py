"""Gopher's rules of repetition, each on both sides of its bound."""

from collections import Counter

import numpy as np
import pytest
from cleaned import check_bound, reason_of

from raymodel.data.cleaning.record import Whole
from raymodel.data.cleaning.repetition import Repetition
from raymodel.data.cleaning.spec.quality import RepetitionSpec

FREE = {
    "max_lines_frac": 1,
    "max_paragraphs_frac": 1,
    "max_line_chars_frac": 1,
    "max_paragraph_chars_frac": 1,
    "max_top_chars_frac": [1, 1, 1],
    "max_repeated_chars_frac": [1] * 6,
}


def words(start: int, count: int) -> str:
    """Words of four characters, none of which stands twice."""
    return " ".join(f"w{i:03d}" for i in range(start, start + count))


def top(n: int, most: float) -> dict:
    return {"max_top_chars_frac": [most if n == each else 1 for each in (2, 3, 4)]}


def repeated(n: int, most: float) -> dict:
    return {"max_repeated_chars_frac": [most if n == each else 1 for each in range(5, 11)]}


RULES = [
    # Three of ten lines are repeated, then four; blank ones are no lines.
    (
        {"max_lines_frac": 0.3},
        "a\n" * 4 + "\n\nb\nc\nd\ne\nf\ng",
        "a\n" * 5 + "b\nc\nd\ne\nf",
        "more than 30 % of lines repeated",
    ),
    (
        {"max_paragraphs_frac": 0.3},
        "a\n\n" * 4 + "b\n\nc\n \nd\n\ne\n\nf\n\ng",
        "a\n\n" * 5 + "b\n\nc\n\nd\n\ne\n\nf",
        "more than 30 % of paragraphs repeated",
    ),
    # Two of ten characters, then three of ten: white space is none.
    (
        {"max_line_chars_frac": 0.2},
        "a b\nab c d e f\na b",
        "a bc\nabcd\na bc",
        "more than 20 % of characters in repeated lines",
    ),
    (
        {"max_paragraph_chars_frac": 0.2},
        "ab\n\nabcdef\n\nab",
        "abc\n\nabcd\n\nabc",
        "more than 20 % of characters in repeated paragraphs",
    ),
    # The two words stand twice: 4 of 20 words, then of 19.
    (
        top(2, 0.2),
        f"{words(0, 2)} {words(0, 2)} {words(9, 16)}",
        f"{words(0, 2)} {words(0, 2)} {words(9, 15)}",
        "more than 20 % of characters in one sequence of 2 words",
    ),
    (
        top(4, 0.4),
        f"{words(0, 4)} {words(9, 12)} {words(0, 4)}",
        f"{words(0, 4)} {words(9, 11)} {words(0, 4)}",
        "more than 40 % of characters in one sequence of 4 words",
    ),
    # Of a repeated sequence what stood before is no repetition: 5 of 20 words, then of 19.
    (
        repeated(5, 0.25),
        f"{words(0, 5)} {words(9, 10)} {words(0, 5)}",
        f"{words(0, 5)} {words(9, 9)} {words(0, 5)}",
        "more than 25 % of characters in repeated sequences of 5 words",
    ),
    # Six sequences overlap in the last fifteen words, which count once.
    (
        repeated(10, 0.5),
        f"{words(0, 15)} {words(0, 15)}",
        f"{words(0, 16)} {words(0, 16)} {words(0, 1)}",
        "more than 50 % of characters in repeated sequences of 10 words",
    ),
]


@pytest.mark.parametrize(("rule", "kept", "left_out", "reason"), RULES)
def test_a_rule_holds_on_both_sides_of_its_bound(rule, kept, left_out, reason) -> None:
    check_bound(kept, left_out, reason, "repetition", **FREE | rule)


def test_a_sequence_that_stands_once_is_no_repetition() -> None:
    assert reason_of("two words", "repetition") is None
    assert reason_of("", "repetition") is None
    assert reason_of("one", "repetition") is None


def test_of_sequences_as_frequent_the_longest_counts() -> None:
    text = f"a a b a a {words(0, 3)} {words(0, 3)}"  # `a a` and `w000 w001` stand twice
    assert reason_of(text, "repetition", **FREE | top(2, 16 / 29)) is None
    assert reason_of(text, "repetition", **FREE | top(2, 15 / 29)) is not None


def counted(text: str, n: int, is_top: bool) -> float:
    """The share of characters by the definition, word by word."""
    found = text.split()
    grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
    counts = Counter(grams)
    covered = set[int]()
    if is_top:
        most = max(counts.values())
        if most < 2:
            return 0.0
        gram = max((g for g in counts if counts[g] == most), key=lambda g: len("".join(g)))
        starts = [i for i, each in enumerate(grams) if each == gram]
    else:
        starts = [i for i, each in enumerate(grams) if each in grams[:i]]
    for start in starts:
        covered.update(range(start, start + n))
    return sum(len(found[i]) for i in covered) / len("".join(found))


@pytest.mark.parametrize("seed", range(30))
def test_shares_are_those_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    vocabulary = ["a", "bb", "ccc", "dddd", "eeeee"][: int(random.integers(1, 6))]
    text = " ".join(random.choice(vocabulary, size=int(random.integers(12, 60))))
    for n in range(2, 11):
        share, rule = counted(text, n, n < 5), top if n < 5 else repeated
        at = RepetitionSpec.model_validate({"name": "repetition", **FREE, **rule(n, share)})
        assert Repetition(at).broken_rule(Whole(text)) is None
        if share > 0.001:
            below = FREE | rule(n, share - 0.001)
            found = Repetition(RepetitionSpec.model_validate(below)).broken_rule(Whole(text))
            assert found == (f"top_{n}" if n < 5 else f"repeated_{n}")


def test_characters_of_scripts_without_spaces_are_words() -> None:
    said = "written without spaces between words, so that it needs `unit: characters`"
    text = "天地玄黄宇宙洪荒" + "日月盈昃辰宿列张寒来暑往"
    assert reason_of(text, "repetition") == said
    assert reason_of(text, "repetition", unit="characters") is None
    again = reason_of(text * 2, "repetition", unit="characters")
    assert again == "more than 16 % of characters in one sequence of 4 characters"
