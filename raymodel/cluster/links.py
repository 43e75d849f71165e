"""Letting a cluster's workers talk to each other: an all-reduce, as training does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raymodel.cluster.findings import Finding, judge_reduce, reduce_failed
from raymodel.cluster.nodes import alive_nodes, cause, on_node
from raymodel.cluster.probe import Rank, ReduceTrial
from raymodel.cluster.spec import ClusterSpec

_REDUCE_BYTES = 64 * 2**20  # the size of a large gradient bucket
_REPETITIONS = 5
_ANSWER_S = 180.0  # first worker processes that import torch, and a slow network
_JOIN_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where one worker runs."""

    node_id: str
    host: str
    options: Mapping[str, Any]
    """Of its actor."""


def examine_links(places: Sequence[Place]) -> list[Finding]:
    """An all-reduce between workers in these places; none for a single worker."""
    if len(places) < 2:
        return []
    backend = "nccl" if all(place.options["num_gpus"] for place in places) else "gloo"
    ranks: list[Any] = [ray.remote(Rank).options(**place.options).remote() for place in places]
    try:
        return [judge_reduce(_reduce(ranks, places, backend))]
    except RayError as error:
        return [reduce_failed(len(ranks), cause(error))]
    finally:
        for rank in ranks:
            ray.kill(rank)


def places_on_nodes() -> list[Place]:
    """One place on each node that can train: those with GPUs, or where there are none, CPUs."""
    nodes = list(alive_nodes().values())
    kind = "GPU" if any(node["Resources"].get("GPU") for node in nodes) else "CPU"
    return [
        Place(
            node["NodeID"],
            node["NodeManagerAddress"],
            {"num_cpus": 0, "num_gpus": int(kind == "GPU"), **on_node(node)},
        )
        for node in nodes
        if node["Resources"].get(kind)
    ]


def places_in_group(group: PlacementGroup, cluster: ClusterSpec) -> list[Place]:
    """The places that a placement group reserves for a job's workers."""
    hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in alive_nodes().values()}
    node_ids: Mapping[int, str] = placement_group_table(group)["bundles_to_node_id"]
    return [
        Place(
            node_id,
            hosts[node_id],
            {
                "num_cpus": cluster.cpus_per_worker,
                "num_gpus": cluster.gpus_per_worker,
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=index
                ),
            },
        )
        for index, node_id in sorted(node_ids.items())
    ]


def _reduce(ranks: Sequence[Any], places: Sequence[Place], backend: str) -> ReduceTrial:
    count, host = len(ranks), places[0].host
    port = ray.get(ranks[0].open_store.remote(host, count, _JOIN_S), timeout=_ANSWER_S)
    joining = [
        rank.join.remote(host, port, i, count, backend, _JOIN_S) for i, rank in enumerate(ranks)
    ]
    ray.get(joining, timeout=_ANSWER_S)
    reducing = [rank.reduce.remote(_REDUCE_BYTES, _REPETITIONS) for rank in ranks]
    results = ray.get(reducing, timeout=_ANSWER_S)
    return ReduceTrial(
        num_workers=count,
        num_nodes=len({place.node_id for place in places}),
        backend=backend,
        num_bytes=_REDUCE_BYTES,
        seconds=max(seconds for seconds, _ in results),
        is_right=all(right for _, right in results),
    )
