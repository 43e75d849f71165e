"""Templates fill plain fields, and say clearly what is wrong with a bad one."""

import pytest

from raymodel.tasks.template import render, template_fields


def test_fields_are_filled_and_doubled_braces_stay_braces():
    record = {"question": "2+2", "answer": 4}
    assert render("Q: {question} {{json}} A: {answer}", record) == "Q: 2+2 {json} A: 4"
    assert template_fields("{a}{b} {{c}}") == ("a", "b")


def test_a_missing_field_is_named_with_the_fields_there_are_and_the_nearest():
    with pytest.raises(ValueError, match=r"'docstrin'.*code, docstring.*mean \{docstring\}"):
        render("{docstrin}", {"code": "x", "docstring": "y"})


@pytest.mark.parametrize(
    "template", ["{x.__class__}", "{x[0]}", "{}", "{0}", "{x!r}", "{x:>9}", "{x", "x}"]
)
def test_anything_but_a_plain_name_is_refused(template):
    with pytest.raises(ValueError, match="plain"):
        render(template, {"x": "1"})


def test_braces_in_a_value_are_not_read_as_a_template():
    assert render("{x}", {"x": "{y}"}) == "{y}"
