"""Templates fill fields and their parts, and say clearly what is wrong with a bad one."""

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest

from raymodel.tasks.template import FieldTypeError, RecordError, render, template_fields

TALK = {"messages": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}]}


def test_fields_are_filled_and_doubled_braces_stay_braces():
    record = {"question": "2+2", "answer": 4}
    assert render("Q: {question} {{json}} A: {answer}", record) == "Q: 2+2 {json} A: 4"
    assert template_fields("{a}{b} {{c}}") == ("a", "b")


def test_parts_of_lists_and_mappings_stand_in_brackets():
    template = "{messages[0][content]} = {messages[1][content]}"
    assert render(template, TALK) == "2+2 = 4"
    assert template_fields(template) == ("messages", "messages")
    assert render("{a[b c][1]}", {"a": {"b c": ["x", "y"]}}) == "y"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (Decimal("NaN"), ""),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (0.1, "0.1"),
        (2.0, "2.0"),
        (float("-inf"), "-inf"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+3"), "1000"),
        ("größer".encode(), "größer"),
        (date(2024, 2, 29), "2024-02-29"),
        (time(7, 5), "07:05:00"),
        (datetime(2024, 2, 29, 7, 5, tzinfo=UTC), "2024-02-29T07:05:00+00:00"),
    ],
)
def test_each_type_of_value_is_written_by_one_rule(value, text):
    assert render("{x}", {"x": value}) == text


@pytest.mark.parametrize(
    ("value", "seen", "way"),
    [
        (TALK["messages"], "a list", r"\{x\[0\]\[role\]\}"),
        ({"de": "ja", "en": "yes"}, "a mapping", r"\{x\[de\]\}"),
        ([], "a list", "another field"),
        ([[]], "a list", "another field"),
        (1j, "a value of type complex", "another field"),
    ],
)
def test_what_has_no_one_text_is_refused_with_the_way_to_say_it(value, seen, way):
    with pytest.raises(FieldTypeError, match=f"(?s)'x' holds {seen}.*{way}"):
        render("{x}", {"x": value})


def test_the_way_that_is_shown_works():
    with pytest.raises(FieldTypeError) as caught:
        render("{messages}", TALK)
    template = str(caught.value).rpartition("such as ")[2]
    assert render(template, TALK) == "user"


@pytest.mark.parametrize(
    "template", ["{messages[2][content]}", "{messages[0][text]}", "{messages[a]}", "{messages[-1]}"]
)
def test_a_record_without_the_part_is_left_out_for_that(template):
    with pytest.raises(RecordError) as caught:
        render(template, TALK)
    assert caught.value.reason == f"record without the field {template[1:-1]!r}"


def test_bytes_that_are_no_text_are_a_reason_to_leave_the_record_out():
    with pytest.raises(RecordError) as caught:
        render("{x}", {"x": b"caf\xe9"})
    assert caught.value.reason == "bytes that are not UTF-8 in the field 'x'"


def test_a_missing_field_is_named_with_the_fields_there_are_and_the_nearest():
    with pytest.raises(ValueError, match=r"'docstrin'.*code, docstring.*mean \{docstring\}"):
        render("{docstrin}", {"code": "x", "docstring": "y"})


@pytest.mark.parametrize(
    "template",
    [
        "{x.__class__}",
        "{x[0].real}",
        "{x[]}",
        "{x[0}",
        "{x]}",
        "{[0]}",
        "{x[{y}]}",
        "{}",
        "{0}",
        "{x!r}",
        "{x:>9}",
        "{x",
        "x}",
    ],
)
def test_anything_but_a_name_and_its_parts_is_refused(template):
    with pytest.raises(ValueError, match="plain"):
        render(template, {"x": "1"})


def test_braces_in_a_value_are_not_read_as_a_template():
    assert render("{x}", {"x": "{y}"}) == "{y}"
