"""Elastic runs of workers that belong together."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray.train import ScalingConfig

from raymodel.cluster.placement import WholeReplicas, count_whole_replicas
from raymodel.testing.nodes import Nodes

REPOSITORY = Path(__file__).parents[2]

# At each line of input: how many workers of two CPUs may start.
COUNT = """\
import sys
from types import SimpleNamespace
import ray
from ray.train import ScalingConfig
from raymodel.cluster.placement import WholeReplicas

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
policy = WholeReplicas(ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 2}), 1)
policy.after_controller_start(SimpleNamespace(run_id="run"))
for _ in sys.stdin:
    decision = policy.make_decision_for_non_running_worker_group()
    print("workers", getattr(decision, "num_workers", 0), flush=True)
"""


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


@pytest.mark.slow
def test_nodes_count_from_when_they_come_until_they_are_lost() -> None:
    """Ray's own count is of the nodes of up to 20 seconds ago."""
    with Nodes() as nodes:
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT, nodes.address],
            env=nodes.environment | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        try:
            counts = [_count(process)]
            for _ in range(2):
                nodes.add(2)
                counts.append(_count(process))
            nodes.kill(nodes.names[0])
            nodes.wait_until(lambda alive: len(alive) == 2, "the loss of a node")
            counts.append(_count(process))
        finally:
            process.kill()
            process.communicate()
    assert counts == [0, 1, 2, 1]


def _count(process: subprocess.Popen[str]) -> int:
    print(file=process.stdin)
    # Ray, too, writes to a driver's output.
    lines = iter(process.stdout.readline, "")
    return next(int(line.split()[1]) for line in lines if line.startswith("workers "))
