import pytest
from pydantic import ValidationError

from raymodel.spec.base import Spec
from raymodel.spec.quantity import (
    Amount,
    Bytes,
    Count,
    Fraction,
    Part,
    Seconds,
    parse_bytes,
    parse_count,
    parse_fraction,
    parse_part,
    parse_seconds,
)
from raymodel.spec.show import show


class Quantities(Spec):
    size: Bytes
    time: Seconds
    share: Fraction
    count: Count
    amount: Amount
    warmup: Part = 0.02
    decay: Part = 0.1


def quantities() -> Quantities:
    return Quantities(
        size="1.5GiB",
        time="2h",
        share="5%",
        count="2M",
        amount="100 steps",
        warmup="2%",
        decay="2K steps",
    )


def test_quantities_parse_to_plain_units():
    spec = quantities()
    assert (spec.size, spec.time, spec.share, spec.count) == (3 * 2**29, 7200.0, 0.05, 2_000_000)
    assert spec.amount == Amount(100, "steps")
    assert (spec.warmup, spec.decay) == (0.02, Amount(2000, "steps"))


def test_a_resolved_spec_parses_to_itself():
    spec = quantities()
    assert Quantities(**spec.to_dict()) == spec
    assert spec.to_dict()["time"] == "7200s"


@pytest.mark.parametrize(
    ("parse", "value", "result"),
    [
        (parse_bytes, "2GB", 2 * 10**9),
        (parse_bytes, "64 MiB", 64 * 2**20),
        (parse_seconds, "250ms", 0.25),
        (parse_seconds, "10 min", 600.0),
        (parse_fraction, 1, 1.0),
        (parse_fraction, "0.5%", 0.005),
        (parse_count, "1.5K", 1500),
        (parse_count, 0, 0),
    ],
)
def test_units_scale(parse, value, result):
    assert parse(value) == pytest.approx(result)


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (parse_bytes, 64),
        (parse_bytes, "64"),
        (parse_bytes, "64 mib"),
        (parse_seconds, 10),
        (parse_seconds, "10 minutes"),
        (parse_seconds, "-1s"),
        (parse_fraction, "120%"),
        (parse_fraction, 1.5),
        (parse_part, 1.5),
        (parse_part, "2 epochs"),
        (parse_part, "steps"),
        (parse_part, True),
        (parse_fraction, True),
        (parse_fraction, float("nan")),
        (parse_count, -1),
        (parse_count, 1.5),
        (parse_count, True),
        (parse_count, "10k"),
        (Amount.parse, "100"),
        (Amount.parse, "0 steps"),
        (Amount.parse, "3 parsecs"),
        (Amount.parse, 100),
    ],
)
def test_a_wrong_unit_is_refused_with_value_and_rule(parse, value):
    with pytest.raises(ValueError, match="write") as caught:
        parse(value)
    assert show(value) in str(caught.value)


@pytest.mark.parametrize(
    ("amount", "steps"),
    [("7 steps", 7), ("1K tokens", 2), ("1 epoch", 13), ("16 rows", 2), ("1 token", 1)],
)
def test_an_amount_becomes_the_whole_steps_that_cover_it(amount, steps):
    shape = {"tokens_per_step": 512.0, "rows_per_step": 8, "rows_per_epoch": 100}
    assert Amount.parse(amount).steps(**shape) == steps


def test_an_amount_prints_as_it_parses():
    for text in ("100 steps", "2000000 tokens", "0.5 epochs"):
        assert str(Amount.parse(text)) == text


@pytest.mark.parametrize(
    ("time", "amount"),
    [("20.5d", "1T tokens"), ("0.05ms", "0.00001 epochs"), ("1234567s", "123456789012345 tokens")],
)
def test_a_large_or_small_quantity_is_written_without_an_exponent(time, amount):
    spec = Quantities(size="1B", time=time, share=0, count=10**15, amount=amount)
    assert Quantities(**spec.to_dict()) == spec
    assert "e" not in spec.to_dict()["time"] + spec.to_dict()["amount"].split()[0]


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 5000, "1" + "0" * 400 + ".5"])
def test_a_number_of_very_many_digits_is_too_large_and_shown_short(digits):
    for parse, unit in ((parse_count, "K"), (parse_bytes, "TB"), (parse_seconds, "d")):
        with pytest.raises(ValueError, match="is too large; write at most") as caught:
            parse(digits + unit)
        assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="1,000T steps"):
        Amount.parse(f"{digits} steps")


def test_a_count_is_whole():
    assert parse_count("1.5K") == 1500
    assert parse_count("0.07K") == 70
    for text in ("1.5", "0.0001K", "1.0005K"):
        with pytest.raises(ValueError, match="is not a count"):
            parse_count(text)


def test_the_json_schema_of_a_quantity_is_what_a_person_writes():
    properties = Quantities.model_json_schema()["properties"]
    assert properties["size"]["type"] == "string"
    assert properties["amount"]["examples"] == ["100 steps", "2M tokens", "3 epochs"]
    assert properties["count"]["type"] == ["integer", "string"]


def test_a_spec_is_frozen_and_takes_no_infinity():
    class Number(Spec):
        value: float

    with pytest.raises(ValidationError):
        Number(value=float("inf"))
    with pytest.raises(ValidationError):
        Number(value=1.0).value = 2.0
