"""A counted shape: what its numbers mean, and that they come back from JSON."""

import json

import pytest

from raymodel.model.activations import Activations
from raymodel.model.counted import (
    CountedShape,
    Counting,
    Input,
    MetaCount,
    shape_from_dict,
    text_rows,
)
from raymodel.model.shape import Adapter, ModelShape

KEPT = Activations(
    layers=900.0, layer=300.0, layer_inputs=30.0, working=60.0, ends=9.0, logits=3.0, once=7.0
)


def counted(*flops):
    count = MetaCount(
        trained=60,
        frozen=40,
        buffer_bytes=1,
        largest=20,
        hidden=30,
        sides=12,
        cut=50,
        head=10,
        forward_flops=flops,
        row_bytes=KEPT,
    )
    adapter = Adapter(rank=2, target=("query",))
    return CountedShape(architecture="any", config={"n": 1}, count=count, adapter=adapter)


def test_what_a_token_costs_lies_on_a_line_through_two_sizes():
    shape = counted((8, 8 * (100 + 5 * 8)), (4, 4 * (100 + 5 * 4)))
    for tokens in (8, 4, 6, 50):
        assert shape.train_flops_per_token(tokens) == pytest.approx(3 * (100 + 5 * tokens))
    assert counted((8, 80.0)).train_flops_per_token(4) == 30.0


def test_bytes_of_a_row_are_shared_by_its_tokens_and_what_is_there_once_is_not():
    kept = counted((3, 1.0)).activations()
    assert (kept.layers, kept.layer, kept.layer_inputs) == (300, 100, 10)
    assert (kept.working, kept.ends, kept.logits, kept.once) == (20, 3, 1, 7)


def test_tensor_parallelism_cuts_what_was_found_to_be_cut():
    shape = counted((1, 1.0))
    assert shape.tensor_share(2) == 0.75
    assert shape.head_gradient(2) == 5


def test_shapes_of_both_kinds_come_back_from_json():
    formula = ModelShape(architecture="llama", config={"hidden_size": 4})
    for shape in (counted((8, 2.0), (4, 1.0)), formula):
        assert shape_from_dict(json.loads(json.dumps(shape.to_dict()))) == shape


def test_what_is_asked_comes_back_from_json():
    image = {"pixel_values": Input(shape=(3, 8, 8), kind="numbers")}
    for rows in (text_rows(9), text_rows(1), ((4, image),)):
        asked = Counting(rows=rows, precision="fp16", on_gpu=True, labels=3)
        assert Counting.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    assert [size for size, _ in text_rows(9)] == [9, 4]
    assert [size for size, _ in text_rows(1)] == [1]
