"""Elastic runs of workers that belong together."""

import pytest
from ray.train import ScalingConfig

from raymodel.cluster.placement import WholeReplicas, count_whole_replicas


@pytest.mark.parametrize(
    ("rooms", "each", "most", "workers"),
    [
        ([8], 1, 4, 4),
        ([3, 3], 2, 8, 4),  # the third place of each node stays free
        ([1, 1, 1], 2, 8, 0),
        ([4, 2, 1], 2, 8, 6),
        ([4, 4], 4, 6, 4),
    ],
)
def test_whole_replicas_are_counted_node_by_node(rooms, each, most, workers):
    assert count_whole_replicas(rooms, each, most) == workers


def test_rays_policy_gives_the_workers_of_whole_replicas():
    """Fails when Ray counts in another place."""
    scaling = ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 2})
    policy = WholeReplicas(scaling, replica_workers=2)
    nodes = {"a": {"CPU": 7.0}, "b": {"CPU": 4.0}, "c": {"CPU": 3.0}}
    assert policy._count_possible_workers(nodes) == 4
