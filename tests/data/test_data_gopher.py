"""Gopher's rules of quality, each on both sides of its bound."""

import pytest
from cleaned import check_bound, reason_of

# A rule at a time: what the others ask for is switched off.
FREE = {
    "min_words": 0,
    "min_mean_word_chars": 0,
    "max_mean_word_chars": 1000,
    "max_symbols_by_word": 1000,
    "max_bullet_lines_frac": 1,
    "max_ellipsis_lines_frac": 1,
    "min_alphabetic_frac": 0,
    "min_stop_words": 0,
}
PROSE = (
    "The harbour lies to the north of the old town, and ships that have come from afar are to be "
    "seen there with their sails.\n"
) * 2


def test_prose_of_fifty_words_is_kept_with_the_rules_of_the_paper() -> None:
    assert len(PROSE.split()) == 50
    check_bound(PROSE, PROSE.rsplit(maxsplit=1)[0], "fewer than 50 words", "gopher")


RULES = [
    ({"min_words": 3}, "one two three", "one two", "fewer than 3 words"),
    ({"max_words": 3, "min_words": 0}, "one two three", "a b c d", "more than 3 words"),
    ({"min_mean_word_chars": 3}, "one two four five a", "a five", "mean word of fewer than 3 "),
    ({"min_mean_word_chars": 3}, "ab four", "ab abc", "mean word of fewer than 3 characters"),
    ({"max_mean_word_chars": 4}, "four five", "four fives", "mean word of more than 4 characters"),
    ({"max_symbols_by_word": 0.1}, "# " + "w " * 9, "# " + "w " * 8, "more than 0.1 hash signs"),
    ({"max_symbols_by_word": 0.1}, "…" + " w" * 9, "w..." + " w" * 8, "more than 0.1 ellipses"),
    (
        {"max_bullet_lines_frac": 0.9},
        "• a\n" * 9 + "b",
        "- a\n" * 10 + "\n\n",
        "more than 90 % of lines begin with a bullet",
    ),
    (
        {"max_ellipsis_lines_frac": "30%"},
        "a…\n" * 3 + "b\n" * 7,
        "a...\n" * 4 + "b\n" * 6,
        "more than 30 % of lines end with an ellipsis",
    ),
    (
        {"min_alphabetic_frac": 0.8},
        "a b2 c d 1",
        "a b c 2 1",
        "fewer than 80 % of words have a letter",
    ),
    ({"min_stop_words": 2}, "“The” cat sat, AND left", "the cat, the dog", "fewer than 2 stop "),
    (
        {"min_stop_words": 1, "stop_words": ["et", "la"]},
        "pain et eau",
        "the pain of water",
        "fewer than 1 stop words",
    ),
]


@pytest.mark.parametrize(("rule", "kept", "left_out", "reason"), RULES)
def test_a_rule_holds_on_both_sides_of_its_bound(rule, kept, left_out, reason) -> None:
    settings = FREE | rule
    assert reason_of(kept, "gopher", **settings) is None
    assert str(reason_of(left_out, "gopher", **settings)).startswith(reason)


CHINESE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"


def test_what_is_written_without_spaces_says_that_it_needs_characters() -> None:
    said = "written without spaces between words, so that it needs `unit: characters`"
    assert reason_of(CHINESE * 20, "gopher") == said
    assert reason_of("ครั้งหนึ่งนานมาแล้ว", "gopher") == said
    # Half of the letters are no more than that.
    check_bound("月光 ab", "月光 a", said, "gopher", **FREE)


def test_characters_of_scripts_without_spaces_are_words() -> None:
    assert reason_of(CHINESE, "gopher", unit="characters", min_words=20) is None
    said = "fewer than 21 characters"
    assert reason_of(CHINESE, "gopher", unit="characters", min_words=21) == said
    # Two runs of other letters, three characters; no mean length and no stop words by default.
    mixed = "用GPU训练 ResNet-50。"
    assert reason_of(mixed, "gopher", unit="characters", min_words=5) is None
    assert reason_of(mixed, "gopher", unit="characters", min_words=6) == "fewer than 6 characters"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_words": 10, "max_words": 9}, "min_words must not exceed max_words"),
        ({"min_mean_word_chars": 11}, "min_mean_word_chars must not exceed"),
        ({"stop_words": ["a"]}, "min_stop_words is 2, and there are 1 stop words"),
    ],
)
def test_bounds_that_no_text_meets_are_refused(wrong, said) -> None:
    with pytest.raises(ValueError, match=said):
        reason_of("x", "gopher", **wrong)
