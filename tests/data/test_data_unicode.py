"""Repair and normalisation of Unicode."""

import pytest
from cleaned import clean, cleaned

DECOMPOSED = "scho\u0308n"


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("schÃ¶n", "schön"),
        ("â€œquotedâ€\x9d", "“quoted”"),
        ("a\x00b\x1b[31mc\x7f", "abc"),
        ("one\u2028two", "one\ntwo"),
        (DECOMPOSED, "schön"),
        # No fault.
        ("it’s “fine” – ﬁne", "it’s “fine” – ﬁne"),
        ("全角，ＡＢＣ！", "全角，ＡＢＣ！"),
        ("a &eacute; b", "a &eacute; b"),
        ("plain\ttext\n", "plain\ttext\n"),
        ("", ""),
    ],
)
def test_what_went_wrong_is_repaired_and_all_else_stays(text: str, mended: str) -> None:
    assert cleaned(text, "unicode") == mended


def test_entities_are_read_where_they_are_asked_for() -> None:
    assert cleaned("a &eacute; &amp;", "unicode", html_entities=True) == "a é &"
    assert cleaned("<b> &eacute;", "unicode", html_entities=True) == "<b> &eacute;"


@pytest.mark.parametrize(
    ("form", "text", "mended"),
    [
        ("NFC", DECOMPOSED, "schön"),
        ("NFD", "schön", DECOMPOSED),
        ("NFKC", "x² ﬁ", "x2 fi"),
        ("none", DECOMPOSED, DECOMPOSED),
    ],
)
def test_characters_have_the_form_that_is_asked_for(form: str, text: str, mended: str) -> None:
    assert cleaned(text, "unicode", form=form) == mended
    if form != "none":
        assert cleaned(text, "unicode", form=form, repair=False) == mended


def test_without_repair_only_the_form_changes() -> None:
    assert cleaned("schÃ¶n\x00", "unicode", repair=False) == "schÃ¶n\x00"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"repair": False, "form": "none"}, "that changes no text; drop the step"),
        ({"repair": False, "html_entities": True}, "html_entities is a part of `repair`"),
    ],
)
def test_settings_that_do_nothing_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clean("x", "unicode", **wrong)
