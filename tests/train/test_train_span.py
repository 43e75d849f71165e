"""Elements of a parameter that a worker holds, as runs and as blocks of rows."""

import random

import numpy as np
import pytest

from raymodel.train.checkpoint.span import Span, overlap


def places(span: Span) -> list[int]:
    return [span.place(index) for index in range(span.length)]


def draw_span(draw: random.Random) -> Span:
    """A part of a block of columns of a small matrix, or a run."""
    rows, columns = draw.randint(1, 6), draw.randint(1, 9)
    first = draw.randrange(columns)
    width = draw.randint(1, columns - first)
    whole = Span(first, rows * width, run=width, stride=columns)
    if draw.random() < 0.3:
        whole = Span.of(draw.randrange(20), draw.randint(1, 30))
    begin = draw.randrange(whole.length)
    return whole.cut(begin, draw.randint(begin + 1, whole.length))


def test_the_columns_of_a_matrix_are_one_span():
    matrix = np.arange(20).reshape(4, 5)
    block = Span(start=2, length=12, run=3, stride=5)
    assert places(block) == matrix[:, 2:].flatten().tolist()
    assert block.stop == 20
    assert not block.is_one_run


@pytest.mark.parametrize("seed", range(50))
def test_a_cut_holds_the_elements_that_were_cut_out(seed):
    draw = random.Random(seed)
    span = draw_span(draw)
    begin = draw.randrange(span.length)
    end = draw.randint(begin + 1, span.length)
    assert places(span.cut(begin, end)) == places(span)[begin:end]


@pytest.mark.parametrize("seed", range(50))
def test_the_runs_are_the_span(seed):
    span = draw_span(random.Random(seed))
    inside, starts = span.runs()
    ends = [*inside[1:].tolist(), span.length]
    found = [
        start + offset
        for first, end, start in zip(inside.tolist(), ends, starts.tolist(), strict=True)
        for offset in range(end - first)
    ]
    assert found == places(span)
    assert (len(inside) == 1) == span.is_one_run


@pytest.mark.parametrize("seed", range(200))
def test_an_overlap_is_every_element_that_both_hold(seed):
    draw = random.Random(seed)
    a, b = draw_span(draw), draw_span(draw)
    shared = overlap(a, b)
    pairs = [
        (i + offset, j + offset)
        for i, j, length in zip(*(part.tolist() for part in shared), strict=True)
        for offset in range(length)
    ]
    b_index = {place: index for index, place in enumerate(places(b))}
    assert pairs == [
        (index, b_index[place]) for index, place in enumerate(places(a)) if place in b_index
    ]
