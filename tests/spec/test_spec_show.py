import pytest

from raymodel.spec.show import number_text, shorten, show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ({}, "an empty section"),
        ({"a": 1}, "a section"),
        ((), "an empty list"),
        ("a\x1b[31m\n", r"'a\x1b[31m\n'"),
        ("x" * 100, f"'{'x' * 80}'… (100 characters)"),
        (10**5000, "a whole number of 16,610 bits"),
        (1e-5, "1e-05"),
    ],
    ids=range(9),
)
def test_a_value_is_shown_as_a_job_file_writes_it_on_one_short_line(value, text):
    assert show(value) == text


def test_a_name_is_shown_without_what_moves_a_cursor():
    assert shorten("a\nb\x1b\u202e\ud800é") == r"a\nb\x1b\u202e\ud800é"
    assert shorten("x" * 1000, 10) == "xxxxxxxxxx… (1,000 characters)"


def test_a_bound_is_written_in_digits_where_they_are_few():
    assert number_text(10_000_000) == number_text(1e7) == "10,000,000"
    assert number_text(1e-5) == "1e-05"
    assert number_text(2**63) == "9,223,372,036,854,775,808"
