"""What counts as one class, however a format writes it."""

from decimal import Decimal

import pytest

from raymodel.tasks.label import label_text
from raymodel.tasks.template import FieldTypeError, RecordError


@pytest.mark.parametrize(
    ("values", "label"),
    [
        (["pos", " pos", "pos ", "\tpos\n", b"pos"], "pos"),
        ([1, 1.0, "1", "1.0", " 1 ", Decimal("1.00")], "1"),
        ([-2, -2.0, "-2.0"], "-2"),
        ([0.5, "0.5"], "0.5"),
        ([True], "true"),
        ([False], "false"),
        (["1.0.0"], "1.0.0"),
        (["01"], "01"),
        (["nan"], "nan"),
    ],
)
def test_a_class_is_one_whichever_way_its_value_is_written(values, label):
    assert {label_text({"x": value}, "x") for value in values} == {label}


@pytest.mark.parametrize("record", [{}, {"x": None}, {"x": ""}, {"x": " "}, {"x": float("nan")}])
def test_a_record_without_a_value_is_left_out_for_one_reason(record):
    with pytest.raises(RecordError) as caught:
        label_text(record, "x")
    assert caught.value.reason == "record without a value in 'x'"


@pytest.mark.parametrize("value", [["a", "b"], [], {"a": 1}])
def test_a_list_or_a_mapping_is_no_class(value):
    with pytest.raises(FieldTypeError, match=r"label 'x' holds a (list|mapping).*one text"):
        label_text({"x": value}, "x")
