"""Workers that belong together start together: whole replicas only, when their number may change.

Ray Train numbers the workers node by node, so that neighbours in rank share a node wherever each
node has room for a multiple of a replica's workers. How many workers an elastic run gets is
decided by a policy of Ray Train's, which knows of single workers only and of the nodes as they were
up to 20 seconds ago; this one counts replicas, on the nodes that are there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig


def count_whole_replicas(rooms: Iterable[int], each: int, most: int) -> int:
    """Workers of the replicas that fit, none of them across nodes.

    Args:
        rooms: workers that each node has room for.
        each: workers of a replica.
        most: workers that are wanted at most.
    """
    fit = sum(room // each * each for room in rooms)
    return min(fit, most // each * each)


class WholeReplicas(ElasticScalingPolicy):
    """As many workers as make whole replicas, each on one node."""

    def __init__(self, scaling_config: ScalingConfig, replica_workers: int) -> None:
        super().__init__(scaling_config)
        self._replica_workers = replica_workers

    def _get_reserved_resources(self) -> Any:
        # A node that just came would else be left out until Ray looks again whether to grow, a
        # minute later, and one that is known to be lost would be started on, until that times out.
        # The pause: while there is no room Ray asks in a loop that takes a whole core.
        pause = self.GET_RESERVED_RESOURCES_INTERVAL_S
        time.sleep(max(0.0, self._latest_reserved_resources_query_time + pause - time.monotonic()))
        coordinator = self._autoscaling_coordinator
        coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
        return super()._get_reserved_resources()

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        count = super()._count_possible_workers
        rooms = (count({node: room}) for node, room in reserved_resources.items())
        return count_whole_replicas(rooms, self._replica_workers, self.scaling_config.max_workers)
