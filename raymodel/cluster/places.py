"""Room for a job's workers: whether it can ever be there, and waiting until it is.

On a cluster with an autoscaler, nodes come because something asks for them. Before Ray Train is
started, the workers' places are asked for here as a placement group of this driver: its state is
known, the autoscaler's answer to it is too, and it goes with the driver, however that ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import state  # the State API would need the dashboard
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
from ray.exceptions import RpcError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    remove_placement_group,
)

from raymodel.cluster.capacity import (
    Resources,
    Shortage,
    check_fits,
    count_places,
    find_shortage,
    resources_text,
    worker_resources,
)
from raymodel.cluster.holders import app_name_of, find_holders, holders_text
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError

_POLL_S = 1.0
_STATUS_TIMEOUT_S = 10.0
_FIRST_REPORT_S = 30.0  # an autoscaler starts within seconds of its head
# The autoscaler looks again every five seconds; one verdict may be from before a node came.
_VERDICTS = 10
_WORKER_CLASS = "RayTrainWorker"
_ALIVE = (1, 3)  # NodeStatus RUNNING and IDLE; the others leave or have left


def check_resources(cluster: ClusterSpec) -> None:
    """Refuses a job that the nodes can never hold, instead of waiting for ever.

    A cluster with an autoscaler may grow, so there the autoscaler's own word decides, once it is
    asked (`wait_for_places`).

    Raises:
        ClusterError: names what is asked, what there is, and what to change.
    """
    deadline = time.monotonic() + _FIRST_REPORT_S
    while not has_autoscaler(status := ask_status()):
        try:
            check_fits(cluster, [dict(node.total_resources) for node in alive_nodes(status)])
        except ClusterError:
            if not _may_get_autoscaler(status) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return


def wait_for_places(cluster: ClusterSpec, tell: Callable[[Shortage], None]) -> None:
    """Returns when the smallest size of the job has places; asks the autoscaler for them.

    Args:
        cluster: what the job asks for.
        tell: is given, about once a second, what is waited for.

    Raises:
        ClusterError: the autoscaler has no node type that could ever hold the workers.
    """
    places = count_places(worker_resources(cluster), free_resources(ask_status()))
    if places < cluster.min_workers:
        with reserve(cluster, tell):
            pass


def nodes_with_places(cluster: ClusterSpec) -> list[str]:
    """Where the workers may start now: a node's id for each that fits, at the largest size."""
    worker = worker_resources(cluster)
    rooms = [
        node.node_id.hex()
        for node in alive_nodes(ask_status())
        for _ in range(count_places(worker, [dict(node.available_resources)]))
    ]
    return rooms[: cluster.max_workers]


@contextmanager
def reserve(cluster: ClusterSpec, tell: Callable[[Shortage], None]) -> Iterator[PlacementGroup]:
    """The places of the job's workers, held while the block runs. Like `wait_for_places`."""
    worker = worker_resources(cluster)
    group = placement_group([dict(worker)] * cluster.min_workers, strategy="PACK")
    try:
        _wait(group, cluster, tell)
        yield group
    finally:
        remove_placement_group(group)


def _wait(group: PlacementGroup, cluster: ClusterSpec, tell: Callable[[Shortage], None]) -> None:
    worker, verdicts = worker_resources(cluster), 0
    while not group.wait(_POLL_S):
        status = ask_status()
        # While other work holds places, the autoscaler means "not now", not "never".
        is_final = is_infeasible(status, group.id.hex()) and is_idle(status, worker)
        verdicts = verdicts + 1 if is_final else 0
        if verdicts >= _VERDICTS:
            raise ClusterError(
                f"no node type of the cluster's autoscaler can give {cluster.min_workers} workers "
                f"of {resources_text(worker)}; lower cluster.workers or what each holds, add a "
                "node type, or raise its max_workers"
            )
        shortage = _shortage(cluster, status)
        # Places that are there may still be about to be reserved.
        tell(shortage or Shortage(f"{cluster.min_workers} places that are being reserved"))


def find_lack(cluster: ClusterSpec) -> Shortage | None:
    """What keeps the workers from having places now, and who holds these; None when they fit."""
    try:
        return _shortage(cluster, ask_status())
    except ClusterError as error:  # who needs the head will find out whether it is gone
        return Shortage(str(error))


def holds_the_places(job_name: str, cluster: ClusterSpec) -> bool:
    """Whether workers lack places that the app of this job holds, and no node may come for them."""
    status, worker = ask_status(), worker_resources(cluster)
    if has_autoscaler(status) or find_shortage(cluster, free_resources(status)) is None:
        return False
    app = app_name_of(job_name)
    return any(holder.is_app and holder.name == app for holder in find_holders(worker))


def _shortage(cluster: ClusterSpec, status: Any) -> Shortage | None:
    free = free_resources(status)
    if find_shortage(cluster, free) is None:
        return None
    held = holders_text(find_holders(worker_resources(cluster)))
    return find_shortage(cluster, free, [*launches(status), *([held] if held else [])])


def ask_status() -> Any:
    """The head's view of nodes, demand and autoscaler: a `GetClusterStatusReply`."""
    client = ray._private.worker.global_worker.gcs_client  # type: ignore[attr-defined]
    reply = GetClusterStatusReply()
    try:
        reply.ParseFromString(client.get_cluster_status(timeout_s=_STATUS_TIMEOUT_S))
    except RpcError as error:
        raise ClusterError(f"the Ray head does not answer ({error}); is it still there?") from error
    return reply


def has_autoscaler(status: Any) -> bool:
    """Whether an autoscaler (of Ray's version 2, as under `ray up` and KubeRay) reports here."""
    return bool(status.autoscaling_state.autoscaler_state_version)


def _may_get_autoscaler(status: Any) -> bool:
    """Whether a node has a type, as only `ray up` and KubeRay give one.

    A job may be there before its autoscaler: KubeRay submits it once the head answers.
    """
    return any(node.ray_node_type_name for node in alive_nodes(status))


def is_infeasible(status: Any, group_id: str) -> bool:
    """Whether the autoscaler has said that it can never make room for this placement group."""
    return any(
        request.details.partition(":")[0] == group_id
        for request in status.autoscaling_state.infeasible_gang_resource_requests
    )


def is_idle(status: Any, names: Iterable[str]) -> bool:
    """Whether nothing of these resources is in use on any node."""
    return all(
        node.available_resources.get(name, 0.0) >= node.total_resources.get(name, 0.0)
        for node in alive_nodes(status)
        for name in names
    )


def count_train_workers() -> int:
    """Workers of Ray Train that this driver's job has, or is starting."""
    job_id = ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id()))
    actors = state.actor_table(None, job_id=job_id)
    return sum(
        actor["ActorClassName"] == _WORKER_CLASS and actor["State"] != "DEAD"
        for actor in actors.values()
    )


def launches(status: Any) -> list[str]:
    """What the autoscaler does or could not do, in words."""
    autoscaling = status.autoscaling_state
    coming = [
        f"{request.count} × {request.ray_node_type_name} coming"
        for request in autoscaling.pending_instance_requests
    ]
    coming += [
        f"{instance.ray_node_type_name} starting" for instance in autoscaling.pending_instances
    ]
    failed = [
        f"{request.count} × {request.ray_node_type_name} failed: {request.reason}"
        for request in autoscaling.failed_instance_requests
    ]
    return coming + failed


def alive_nodes(status: Any) -> list[Any]:
    """The nodes that take work."""
    return [node for node in status.cluster_resource_state.node_states if node.status in _ALIVE]


def free_resources(status: Any) -> list[Resources]:
    """What is free on each node that takes work."""
    return [dict(node.available_resources) for node in alive_nodes(status)]
