"""What a cluster can never give is refused before anything starts."""

import pytest

from raymodel.cluster.capacity import check_fits, count_places, find_shortage
from raymodel.cluster.spec import ClusterSpec, ElasticSpec
from raymodel.errors import ClusterError


def cpus(*counts: float) -> list[dict[str, float]]:
    return [{"CPU": count, "memory": 1e9} for count in counts]


def test_places_are_counted_node_by_node() -> None:
    assert count_places({"CPU": 3}, cpus(8, 4, 2)) == 3
    assert count_places({"CPU": 1, "GPU": 1}, [{"CPU": 64, "GPU": 2}, {"CPU": 64}]) == 2


def test_workers_must_fit() -> None:
    check_fits(ClusterSpec(workers=3), cpus(1, 2))
    with pytest.raises(
        ClusterError,
        match=r"3 workers of 1 CPU each .* places for 2 \(2 nodes of 1 CPU\); lower cluster\.w",
    ):
        check_fits(ClusterSpec(workers=3), cpus(1, 1))


def test_a_worker_larger_than_any_node_is_refused_though_the_total_is_enough() -> None:
    with pytest.raises(
        ClusterError,
        match=r"a worker needs 8 CPU on one node, and no node has them \(10 nodes of 4 CPU\)",
    ):
        check_fits(ClusterSpec(workers=2, cpus_per_worker=8), cpus(*[4] * 10))


def test_gpus_must_be_on_a_node() -> None:
    with pytest.raises(ClusterError, match=r"1 CPU \+ 1 GPU .*\(1 node of 64 CPU \+ 0 GPU\)"):
        check_fits(ClusterSpec(workers=2, gpus_per_worker=1), cpus(64))


def test_a_cluster_without_nodes_is_named_so() -> None:
    with pytest.raises(ClusterError, match="there is no node"):
        check_fits(ClusterSpec(), [])


def test_an_elastic_job_is_judged_by_its_smallest_size() -> None:
    check_fits(ClusterSpec(workers=ElasticSpec(min=1, max=100)), cpus(1))


def test_a_shortage_says_what_is_asked_what_is_free_and_what_comes() -> None:
    cluster = ClusterSpec(workers=2)
    assert find_shortage(cluster, cpus(2)) is None
    shortage = find_shortage(cluster, cpus(1, 0), ["1 × cpu coming"])
    assert str(shortage) == "2 workers of 1 CPU; free places: 1 on 2 nodes; 1 × cpu coming"
