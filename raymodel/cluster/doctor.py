"""`raymodel doctor`: examines a cluster before an expensive start.

One actor a node looks at it, one actor a worker takes part in an all-reduce; `findings.py` judges.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from raymodel.cluster.capacity import Shortage
from raymodel.cluster.connect import connect
from raymodel.cluster.findings import (
    Finding,
    judge_clock,
    judge_disks,
    judge_reduce,
    judge_shared_memory,
    judge_storage,
    judge_versions,
    no_places,
    node_failed,
    reduce_failed,
)
from raymodel.cluster.probe import Probe, Rank, ReduceTrial, StorageTrial, read_facts
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError, StorageError
from raymodel.spec.load import LoadedJob
from raymodel.storage.uri import Location

_STORAGE_BYTES = 16 * 2**20  # two parts of a multipart upload
_REDUCE_BYTES = 64 * 2**20  # the size of a large gradient bucket
_REPETITIONS = 5
_CLOCK_ROUNDS = 5
_ANSWER_S = 120.0  # a first worker process of a loaded node, with torch to import
_JOIN_S = 60.0
_HERE = "the driver"


Node = Mapping[str, Any]  # a line of `ray.nodes()`


def examine(address: str | None, loaded: LoadedJob | None = None) -> list[Finding]:
    """Examines a cluster.

    Args:
        address: a running Ray (`host:port`), or None for `RAY_ADDRESS`, else this machine.
        loaded: the job that is to run there: its storage and its workers' places are tried.

    Raises:
        ClusterError: no such cluster.
        StorageError: the job's storage has no valid name.
    """
    if loaded is None:
        with connect(address, ClusterSpec()):
            return [*_examine_nodes(None), *_examine_links(_rank_places())]
    cluster, storage = loaded.job.cluster, Location.parse(loaded.job.storage)
    with connect(address, cluster):
        from raymodel.cluster.room import check_resources, reserve

        try:
            check_resources(cluster)
            # First, since on a cluster that scales from zero this brings the nodes.
            with reserve(cluster, _teller()) as group:
                nodes = _examine_nodes(storage)
                return [*nodes, *_examine_links(_bundles(group, cluster))]
        except ClusterError as error:
            return [*_examine_nodes(storage), no_places(str(error))]


# ---- nodes ---------------------------------------------------------------------------------------


def _examine_nodes(storage: Location | None) -> list[Finding]:
    """What each node is, has, and reaches."""
    import ray

    probes = {name: _start(Probe, node["NodeID"]) for name, node in _alive_nodes().items()}
    findings, facts = [], {}
    paths = [_ray_folder(), *([storage.uri] if storage and storage.is_local else [])]
    for name, probe in probes.items():
        try:
            facts[name] = ray.get(probe.facts.remote(paths), timeout=_ANSWER_S)
        except ray.exceptions.RayError as error:
            findings.append(node_failed(name, _cause(error)))
    findings += judge_versions({_HERE: read_facts([]), **facts})
    for name, fact in facts.items():
        stores = _alive_nodes()[name]["Resources"].get("object_store_memory", 0.0)
        findings += [*judge_disks(name, fact), *judge_shared_memory(name, fact, stores)]
        findings.append(judge_clock(name, *_clock_offset(probes[name])))
    if storage is not None:
        findings += _examine_storage(storage, {name: probes[name] for name in facts})
    return findings


def _examine_storage(storage: Location, probes: Mapping[str, Any]) -> list[Finding]:
    """Every node writes and reads, one after the other: each figure is a node's own."""
    import ray

    folder = storage / f".doctor-{secrets.token_hex(6)}"
    try:
        (folder / "driver").write_bytes(b"seen")
        trials = {
            name: ray.get(
                probe.try_storage.remote(folder, f"node-{i}", "driver", _STORAGE_BYTES),
                timeout=_ANSWER_S,
            )
            for i, (name, probe) in enumerate(probes.items())
        }
    except (OSError, StorageError) as error:
        trials = {_HERE: StorageTrial(error=str(error))}
    finally:
        with suppress(OSError, StorageError):  # what could not be written is not there either
            folder.delete_tree()
    return [judge_storage(name, trial, str(storage)) for name, trial in trials.items()]


def _clock_offset(probe: Any) -> tuple[float, float]:
    """A node's clock less ours, and how far that may be off, from the quickest round trip."""
    import ray

    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        sent = time.time()
        there = ray.get(probe.now.remote(), timeout=_ANSWER_S)
        back = time.time()
        rounds.append(((back - sent) / 2, there - (sent + back) / 2))
    bound_s, offset_s = min(rounds)
    return offset_s, bound_s


# ---- links ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a worker of the all-reduce runs."""

    node_id: str
    host: str
    options: Mapping[str, Any]
    """For its actor."""


def _examine_links(places: Sequence[Place]) -> list[Finding]:
    """An all-reduce between the workers."""
    import ray

    if len(places) < 2:
        return []  # nothing to be reduced
    backend = "nccl" if all(place.options.get("num_gpus") for place in places) else "gloo"
    ranks = [ray.remote(Rank).options(**place.options).remote() for place in places]
    try:
        return [judge_reduce(_reduce(ranks, places, backend))]
    except ray.exceptions.RayError as error:
        return [reduce_failed(len(ranks), _cause(error))]
    finally:
        for rank in ranks:
            ray.kill(rank)


def _reduce(ranks: Sequence[Any], places: Sequence[Place], backend: str) -> ReduceTrial:
    import ray

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


def _rank_places() -> list[Place]:
    """One worker on each node that could train; with GPUs, on those that have one."""
    nodes = list(_alive_nodes().values())
    name = "GPU" if any(node["Resources"].get("GPU") for node in nodes) else "CPU"
    return [
        Place(
            node["NodeID"],
            node["NodeManagerAddress"],
            {"num_cpus": 0, "num_gpus": int(name == "GPU"), **_on(node["NodeID"])},
        )
        for node in nodes
        if node["Resources"].get(name)
    ]


def _bundles(group: Any, cluster: ClusterSpec) -> list[Place]:
    """The places that the job's workers would have."""
    from ray.util.placement_group import placement_group_table
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in _alive_nodes().values()}
    node_ids = placement_group_table(group)["bundles_to_node_id"]
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


# ---- Ray -----------------------------------------------------------------------------------------


def _alive_nodes() -> dict[str, Node]:
    """Nodes by a name that people know: their address, with a number when several share it."""
    import ray

    nodes: dict[str, Node] = {}
    for node in ray.nodes():
        if node["Alive"]:
            address = node["NodeManagerAddress"]
            name = address if address not in nodes else f"{address} {node['NodeID'][:6]}"
            nodes[name] = node
    return nodes


def _start(kind: type, node_id: str) -> Any:
    import ray

    return ray.remote(kind).options(num_cpus=0, **_on(node_id)).remote()


def _on(node_id: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


def _ray_folder() -> str:
    """Where Ray keeps its files and spills objects, on every node."""
    import ray

    return str(ray._private.worker.global_worker.node.get_temp_dir_path())


def _cause(error: Exception) -> str:
    """The last line of what Ray raises: the error itself, below its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


def _teller() -> Callable[[Shortage], None]:
    """Says once what is waited for."""
    told: list[Shortage] = []

    def tell(shortage: Shortage) -> None:
        if not told:
            print(f"waiting for {shortage}", flush=True)
        told.append(shortage)

    return tell
