"""What the head's status says about room for workers."""

from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from raymodel.cluster import places
from raymodel.cluster.capacity import Shortage
from raymodel.cluster.places import (
    check_resources,
    free_resources,
    has_autoscaler,
    is_idle,
    is_infeasible,
    launches,
    nodes_with_places,
)
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError

RUNNING, DEAD, IDLE, DRAINING = 1, 2, 3, 4


def status(*nodes: tuple[int, float, float], autoscaler: bool = False) -> Any:
    """A reply with nodes of (status, CPUs, free CPUs)."""
    reply = GetClusterStatusReply()
    for state, total, free in nodes:
        node = reply.cluster_resource_state.node_states.add(status=state)
        node.total_resources["CPU"] = total
        node.available_resources["CPU"] = free
    reply.autoscaling_state.autoscaler_state_version = int(autoscaler)
    return reply


def test_only_nodes_that_take_work_count() -> None:
    seen = status((RUNNING, 4, 1), (DEAD, 8, 8), (IDLE, 2, 2), (DRAINING, 16, 16))
    assert free_resources(seen) == [{"CPU": 1}, {"CPU": 2}]


def test_workers_may_start_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = status((RUNNING, 4, 4), (DEAD, 8, 8), (IDLE, 3, 1), (RUNNING, 2, 2))
    for name, node in zip("abcd", seen.cluster_resource_state.node_states, strict=True):
        node.node_id = name.encode()
    monkeypatch.setattr(places, "ask_status", lambda: seen)
    ids = [bytes.fromhex(node).decode() for node in nodes_with_places(ClusterSpec(workers=9))]
    assert ids == ["a", "a", "a", "a", "c", "d", "d"]
    two = nodes_with_places(ClusterSpec(workers=2, cpus_per_worker=2))
    assert [bytes.fromhex(node).decode() for node in two] == ["a", "a"]


def test_without_an_autoscaler_the_nodes_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ask_status", lambda: status((RUNNING, 2, 0), (DEAD, 8, 8)))
    check_resources(ClusterSpec(workers=2))  # busy, but large enough
    with pytest.raises(ClusterError, match="places for 2"):
        check_resources(ClusterSpec(workers=3))


def test_with_an_autoscaler_nodes_may_still_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ask_status", lambda: status((IDLE, 0, 0), autoscaler=True))
    check_resources(ClusterSpec(workers=3))


def test_an_autoscaler_that_has_not_reported_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    young, later = status((IDLE, 0, 0)), status((IDLE, 0, 0), autoscaler=True)
    young.cluster_resource_state.node_states[0].ray_node_type_name = "head"
    replies = iter([young, young, later])
    monkeypatch.setattr(places, "_POLL_S", 0.0)
    monkeypatch.setattr(places, "ask_status", lambda: next(replies))
    check_resources(ClusterSpec(workers=3))
    assert next(replies, None) is None

    monkeypatch.setattr(places, "_FIRST_REPORT_S", 0.0)
    monkeypatch.setattr(places, "ask_status", lambda: young)
    with pytest.raises(ClusterError, match="no node has them"):
        check_resources(ClusterSpec(workers=3))


def test_what_the_autoscaler_cannot_place_is_found_by_its_group() -> None:
    seen = status(autoscaler=True)
    assert has_autoscaler(seen)
    seen.autoscaling_state.infeasible_gang_resource_requests.add(details="ab12:PACK|PENDING")
    assert is_infeasible(seen, "ab12")
    assert not is_infeasible(seen, "cd34")


def test_what_comes_and_what_failed_is_told() -> None:
    seen = status(autoscaler=True)
    seen.autoscaling_state.pending_instance_requests.add(ray_node_type_name="cpu", count=2)
    seen.autoscaling_state.pending_instances.add(ray_node_type_name="cpu")
    seen.autoscaling_state.failed_instance_requests.add(
        ray_node_type_name="gpu", count=1, reason="quota"
    )
    assert launches(seen) == ["2 × cpu coming", "cpu starting", "1 × gpu failed: quota"]


class Group:
    """A placement group that is never ready."""

    class id:
        hex = staticmethod(lambda: "ab12")

    def wait(self, limit_s: float) -> bool:
        return False


def infeasible(*nodes: tuple[int, float, float]) -> Any:
    seen = status(*nodes, autoscaler=True)
    seen.autoscaling_state.infeasible_gang_resource_requests.add(details="ab12:PACK|PENDING")
    return seen


def test_a_node_type_that_can_never_come_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ask_status", lambda: infeasible((IDLE, 1, 1)))
    monkeypatch.setattr(places, "find_holders", lambda worker: [])
    told: list[Shortage] = []
    with pytest.raises(ClusterError, match=r"no node type .* 2 workers of 8 CPU; lower"):
        places._wait(Group(), ClusterSpec(workers=2, cpus_per_worker=8), told.append)  # type: ignore[arg-type]
    assert str(told[0]) == "2 workers of 8 CPU; free places: 0 on 1 node"


def test_while_others_work_the_autoscaler_means_not_now(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = infeasible((RUNNING, 1, 0))
    assert not is_idle(busy, ["CPU"])
    monkeypatch.setattr(places, "ask_status", lambda: busy)
    monkeypatch.setattr(places, "find_holders", lambda worker: [])
    told: list[Shortage] = []

    def tell(shortage: Shortage) -> None:
        told.append(shortage)
        if len(told) > 2 * places._VERDICTS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        places._wait(Group(), ClusterSpec(workers=2), tell)  # type: ignore[arg-type]
