"""C4's and FineWeb's rules, each on both sides of its bound."""

from pathlib import Path

import pytest
from cleaned import check_bound, clean, cleaned, cleaner_of, reason_of

from raymodel.data.cleaning.c4 import num_sentences
from raymodel.data.cleaning.record import Whole
from raymodel.data.cleaning.spec.base import read_terms
from raymodel.data.cleaning.terms import Terms
from raymodel.data.spec import CleanSpec
from raymodel.errors import SpecError
from raymodel.tasks.template import RecordError

PAGE = "The harbour lies to the north. Ships come there!\nWho has seen it from afar?\n"
FREE = {
    "terminal_lines": False,
    "min_line_words": 0,
    "javascript_lines": False,
    "policy_lines": False,
    "min_sentences": 0,
    "lorem_ipsum": False,
    "curly_brackets": False,
}


# ---- C4 ------------------------------------------------------------------------------------------


def test_a_page_of_sentences_stays_with_the_rules_of_the_paper() -> None:
    assert cleaned(PAGE, "c4") == PAGE.strip()
    check_bound(PAGE, PAGE.replace("north. Ships", "north where ships"), "fewer than 3 sentences",
                "c4")  # fmt: skip


LINES = [
    (
        "terminal_lines",
        True,
        'a.\nb!\nc?\nd."\ne”\n月。\nf؟',
        "x\ny,\nz:\n- w",
        "without a terminal",
    ),
    ("min_line_words", 3, "one two three", "one two", "lines of few words"),
    ("javascript_lines", True, "java is a script", "Enable JavaScript now", "lines on JavaScript"),
    ("policy_lines", True, "the terms of the use", "We use Cookies", "lines on policies"),
    ("policy_lines", True, "cookies are sweet", "Our Privacy Policy", "lines on policies"),
]


@pytest.mark.parametrize(("rule", "value", "kept", "dropped", "counted"), LINES)
def test_lines_go_by_a_rule(
    rule: str, value: object, kept: str, dropped: str, counted: str
) -> None:
    record = clean(f"{kept}\n{dropped}", "c4", **FREE | {rule: value})
    assert record.texts == [kept]
    (counts,) = record.changed.values()
    (what,) = counts
    assert counted in what
    assert counts[what] == len(dropped.split("\n"))


def test_blank_lines_go_with_those_that_end_in_no_mark_and_are_not_counted() -> None:
    record = clean("a.\n\nb.", "c4", **FREE | {"terminal_lines": True})
    assert (record.texts, record.changed["c4"].total()) == (["a.\nb."], 0)
    assert cleaned("a.\n\nb", "c4", **FREE) == "a.\n\nb"


PAGES = [
    ("lorem_ipsum", True, "lorem and ipsum", "Lorem Ipsum", "lorem ipsum"),
    ("curly_brackets", True, "a}", "a{", "a curly bracket"),
    ("bad_words", ["hell"], "hello shell", "Hell!", "a bad word"),
    ("min_sentences", 2, "One. Two", "One.", "fewer than 2 sentences"),
]


@pytest.mark.parametrize(("rule", "value", "kept", "left_out", "reason"), PAGES)
def test_pages_are_left_out_by_a_rule(rule, value, kept, left_out, reason) -> None:
    check_bound(kept, left_out, reason, "c4", **FREE | {rule: value})


def test_a_page_that_loses_every_line_is_left_out_for_that() -> None:
    check_bound("a.", "a", "no line is left", "c4", **FREE | {"terminal_lines": True})
    # A pair without its answer is no pair; a text that was blank before loses nothing.
    cleaner = cleaner_of({"name": "c4", **FREE, "terminal_lines": True})
    assert cleaner.clean(["a.", ""]).texts == ["a.", ""]
    with pytest.raises(RecordError, match="no line is left"):
        cleaner.clean(["a.", "b"])


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("no end", 1),
        ("One. Two.", 2),
        ("One. Two", 2),
        ('He said "Go." And she went…', 2),
        ("It is 3.5 m, see example.org now.", 1),
        ("(One.) [Two!] “Three?”", 3),
        ("Really?! Yes...", 2),
        ("月落乌啼霜满天。江枫渔火对愁眠！“姑苏”", 3),
        ("他说：“去吧。”", 1),
    ],
)
def test_sentences_end_where_a_mark_stands_before_white_space(line: str, count: int) -> None:
    assert num_sentences(line) == count


def test_pages_without_spaces_between_words_need_characters() -> None:
    page = "月落乌啼霜满天。江枫渔火对愁眠。\n姑苏城外寒山寺。\n短。"
    said = "written without spaces between words, so that it needs `unit: characters`"
    assert reason_of(page, "c4") == said
    assert cleaned(page, "c4", unit="characters") == page.removesuffix("\n短。")


# ---- FineWeb -------------------------------------------------------------------------------------

LONG = "This line has thirty characters"[:30]
OFF = {
    "min_terminal_lines_frac": None,
    "max_repeated_line_chars_frac": None,
    "max_short_lines_frac": None,
}
FINEWEB = [
    # 13 of 100 lines, then 12: the bound itself is left out.
    (
        "min_terminal_lines_frac",
        0.12,
        "a.\n" * 13 + "b\n" * 87,
        "a.\n" * 12 + "b\n" * 88,
        "12 % of lines or fewer end in a terminal mark",
    ),
    # A line of 9 characters of 99 stands twice, then one of 10 of 100.
    (
        "max_repeated_line_chars_frac",
        0.1,
        f"{'a' * 9}\n{'a' * 9}\n{'b' * 81}",
        f"{'a' * 10}\n{'a' * 10}\n{'b' * 80}",
        "10 % of characters or more in repeated lines",
    ),
    (
        "max_short_lines_frac",
        0.67,
        f"{LONG[:29]}\n" * 66 + f"{LONG}\n" * 34,
        f"{LONG[:29]}\n" * 67 + f"{LONG}\n" * 33,
        "67 % of lines or more are shorter than 30 characters",
    ),
]


@pytest.mark.parametrize(("rule", "value", "kept", "left_out", "reason"), FINEWEB)
def test_the_bounds_of_fineweb_are_left_out_themselves(rule, value, kept, left_out, reason) -> None:
    check_bound(kept, left_out, reason, "fineweb", **OFF | {rule: value})
    assert reason_of(left_out, "fineweb", **OFF) is None


def test_a_page_of_prose_is_kept_and_an_empty_one_is_not_judged() -> None:
    assert reason_of("\n".join([f"{LONG}, it says.", "And that is all that there is to it."]),
                     "fineweb") is None  # fmt: skip
    assert reason_of(" \n\n", "fineweb") is None


# ---- lists of terms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "found", "missed"),
    [
        ("Hell", "what the HELL.", "hello"),
        ("bad  word", "a bad\nword", "bad words"),
        ("a b c", "x a b c", "a b x c"),
        ("c++", "in C++ now", "abc++"),
        ("f*ck", "f*ck", "f*cks"),
        ("坏词", "有坏词吗", "坏的词"),
        ("größe", "GRÖSSE", "größer"),
    ],
)
def test_terms_are_whole_words_without_regard_to_capitals(term, found, missed) -> None:
    terms = Terms([term, "another", "and one more"])
    assert terms.are_in(Whole(found))
    assert not terms.are_in(Whole(missed))
    assert not Terms([]).are_in(Whole(found))


def test_a_list_is_read_where_the_job_runs_and_its_terms_are_in_the_fingerprint(
    own_folder, monkeypatch
) -> None:
    folder: Path = own_folder()
    (folder / "bad.txt").write_text("hell\n\n  damn it \n")

    def spec() -> CleanSpec:
        step = {"name": "c4", "bad_words_file": "bad.txt", "bad_words": ["heck"]}
        return CleanSpec.model_validate({"steps": [step]})

    known, resolved = spec().identity(), spec().with_lists()
    (folder / "bad.txt").rename(folder / "other.txt")
    assert resolved.steps[0].bad_words == ("heck", "hell", "damn it")
    assert resolved.with_lists() == resolved, "elsewhere the file is not looked for"
    with pytest.raises(SpecError, match=r"the list 'bad\.txt' cannot be read"):
        spec().identity()
    (folder / "bad.txt").write_text("hell\ndamn it")
    assert spec().identity() == known
    (folder / "bad.txt").write_text("hell\ndamn")
    assert spec().identity() != known


def test_what_is_no_list_is_refused(own_folder) -> None:
    folder: Path = own_folder()
    (folder / "empty.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes(b"gr\xf6\xdfe")
    with pytest.raises(SpecError, match="has 0 terms"):
        read_terms("empty.txt")
    with pytest.raises(SpecError, match="is not UTF-8"):
        read_terms("latin.txt")
