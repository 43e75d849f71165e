"""Ranks to places: who has which rows, which part of a matrix, and who sits beside whom."""

from collections import Counter

import pytest

from raymodel.errors import ClusterError, SpecError
from raymodel.train.layout import Layout, check_nodes
from raymodel.train.spec import ParallelSpec


def group(workers: int, tensor: int, sequence: int) -> list[Layout]:
    parallel = ParallelSpec(tensor=tensor, sequence=sequence)
    return [Layout.of(parallel, rank, workers) for rank in range(workers)]


def test_tensor_neighbours_come_first_then_those_of_a_row_then_replicas():
    places = [(place.data_rank, place.sequence_rank, place.tensor_rank) for place in group(8, 2, 2)]
    assert places == [
        *((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)),
        *((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)),
    ]


@pytest.mark.parametrize(("tensor", "sequence"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_rows_and_losses_are_counted_once(tensor: int, sequence: int):
    workers = group(8, tensor, sequence)
    rows = Counter(place.data_rank for place in workers if place.speaks_for_rows)
    assert rows == Counter(range(8 // tensor // sequence))
    parts = Counter(
        (place.data_rank, place.sequence_rank) for place in workers if place.speaks_for_loss
    )
    assert set(parts.values()) == {1}
    assert len(parts) == 8 // tensor


@pytest.mark.parametrize(("tensor", "sequence"), [(1, 2), (2, 2), (2, 4)])
def test_a_row_is_shared_by_all_its_parts_and_nobody_else(tensor: int, sequence: int):
    workers = group(8, tensor, sequence)
    rows = workers[0].row_groups()
    assert sorted(rank for row in rows for rank in row) == list(range(8))
    for row in rows:
        assert [workers[rank].sequence_rank for rank in row] == list(range(sequence))
        assert len({(workers[rank].data_rank, workers[rank].tensor_rank) for rank in row}) == 1


def test_workers_that_make_no_whole_replica_are_refused():
    with pytest.raises(SpecError, match="there are 6; use 4 or 8, or a smaller layout"):
        group(6, 2, 2)


@pytest.mark.parametrize(
    ("sizes", "tensor", "sequence", "told"),
    [
        ([4, 4], 2, 2, None),
        ([8], 2, 4, None),
        ([2, 4, 2], 2, 1, None),
        ([3, 1], 2, 1, "the nodes have 3, 1 workers"),
        ([2, 2], 2, 2, "a multiple of 4 workers"),
        ([1, 1, 2], 1, 2, "the nodes have 1, 1, 2 workers"),
    ],
)
def test_a_replica_stays_in_one_node(sizes, tensor, sequence, told):
    """A cluster of nodes with so many workers each; ranks are numbered node by node."""
    nodes = [f"node-{index}" for index, size in enumerate(sizes) for _ in range(size)]
    layout = Layout(0, len(nodes), tensor, sequence)
    if told is None:
        check_nodes(layout, nodes)
        return
    with pytest.raises(ClusterError, match=told):
        check_nodes(layout, nodes)
