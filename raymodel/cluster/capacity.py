"""Capacity: how many workers a cluster's nodes have places for. Pure arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Shortage:
    """What keeps a job waiting for resources."""

    asked: str
    """What is waited for, in words."""
    seen: str = ""
    """What the cluster has, or does about it, in words; may be empty."""

    def __str__(self) -> str:
        return f"{self.asked}; {self.seen}" if self.seen else self.asked


def worker_resources(cluster: ClusterSpec) -> dict[str, float]:
    """What one training worker reserves."""
    gpus = {"GPU": float(cluster.gpus_per_worker)} if cluster.gpus_per_worker else {}
    return {"CPU": float(cluster.cpus_per_worker), **gpus}


def count_places(worker: Resources, nodes: Iterable[Resources]) -> int:
    """Workers that fit on these nodes; one worker never spans two nodes."""
    return sum(
        min(int(node.get(name, 0.0) // asked) for name, asked in worker.items()) for node in nodes
    )


def check_fits(cluster: ClusterSpec, nodes: Sequence[Resources]) -> None:
    """Refuses workers that these nodes can never hold, even when nothing else runs there.

    Args:
        cluster: what the job asks for; an elastic job is judged by its smallest size.
        nodes: the resources of each node in total.

    Raises:
        ClusterError: names what is asked, what there is, and what to change.
    """
    worker = worker_resources(cluster)
    places = count_places(worker, nodes)
    if places >= cluster.min_workers:
        return
    if places == 0:
        raise ClusterError(
            f"a worker needs {resources_text(worker)} on one node, and no node has them "
            f"({nodes_text(worker, nodes)}); lower cluster.cpus_per_worker or "
            "cluster.gpus_per_worker, or use larger nodes"
        )
    raise ClusterError(
        f"{cluster.min_workers} workers of {resources_text(worker)} each are asked for, and the "
        f"nodes have places for {places} ({nodes_text(worker, nodes)}); lower cluster.workers, or "
        "use a larger cluster"
    )


def find_shortage(
    cluster: ClusterSpec, free: Sequence[Resources], more: Sequence[str] = ()
) -> Shortage | None:
    """What the workers of a job wait for now; None when all of its smallest size fit.

    Args:
        cluster: what the job asks for.
        free: what is free on each node now.
        more: what the autoscaler does and who holds the places, in words.
    """
    worker = worker_resources(cluster)
    places = count_places(worker, free)
    if places >= cluster.min_workers:
        return None
    return Shortage(
        f"{_count(cluster.min_workers, 'worker')} of {resources_text(worker)}",
        "; ".join([f"free places: {places} on {_count(len(free), 'node')}", *more]),
    )


def resources_text(resources: Resources) -> str:
    """`{"CPU": 2, "GPU": 1}` → `2 CPU + 1 GPU`."""
    return " + ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items()))


def nodes_text(worker: Resources, nodes: Iterable[Resources]) -> str:
    """Nodes by what they have of what a worker needs: `3 nodes of 4 CPU, 1 node of 0 CPU`."""
    shapes = Counter(
        resources_text({name: node.get(name, 0.0) for name in worker}) for node in nodes
    )
    if not shapes:
        return "there is no node"
    return ", ".join(f"{_count(count, 'node')} of {shape}" for shape, count in shapes.most_common())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
