"""Looking at each node of a cluster: versions, disks, shared memory, clock, storage."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymodel.cluster.findings import (
    Finding,
    judge_clock,
    judge_disks,
    judge_shared_memory,
    judge_storage,
    judge_versions,
    node_failed,
)
from raymodel.cluster.probe import NodeFacts, Probe, StorageTrial, read_facts
from raymodel.errors import StorageError
from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location

_STORAGE_BYTES = 16 * 2**20  # two parts of a multipart upload
_CLOCK_ROUNDS = 5
_ANSWER_S = 120.0  # a first worker process of a loaded node
_HERE = "the driver"

Node = Mapping[str, Any]  # a line of `ray.nodes()`


def examine_nodes(storage: Location | None) -> list[Finding]:
    """What each node is, has, and reaches.

    Args:
        storage: of the job that is to run; None leaves the storage out.
    """
    nodes = alive_nodes()
    probes = {
        name: ray.remote(Probe).options(num_cpus=0, **on_node(node)).remote()
        for name, node in nodes.items()
    }
    facts, findings = _collect_facts(probes, storage)
    findings += judge_versions({_HERE: read_facts([]), **facts})
    for name, fact in facts.items():
        store_bytes = nodes[name]["Resources"].get("object_store_memory", 0.0)
        findings += [*judge_disks(name, fact), *judge_shared_memory(name, fact, store_bytes)]
        findings.append(judge_clock(name, *_clock_offset(probes[name])))
    if storage is not None:
        findings += _examine_storage(storage, {name: probes[name] for name in facts})
    return findings


def alive_nodes() -> dict[str, Node]:
    """Nodes by a name that people know: the address, with part of the id when several share it."""
    nodes: dict[str, Node] = {}
    for node in ray.nodes():
        if node["Alive"]:
            address = node["NodeManagerAddress"]
            name = f"{address} ({node['NodeID'][:6]})" if address in nodes else address
            nodes[name] = node
    return nodes


def on_node(node: Node) -> dict[str, Any]:
    """Options of an actor that runs on this node and nowhere else."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}


def cause(error: Exception) -> str:
    """The last line of what Ray raises: the error itself, below its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


def _collect_facts(
    probes: Mapping[str, Any], storage: Location | None
) -> tuple[dict[str, NodeFacts], list[Finding]]:
    """The facts of the nodes that answer, and a finding for each that does not."""
    ray_node = ray._private.worker.global_worker.node
    assert ray_node is not None, "a driver that is connected has one"
    # Where Ray keeps its files and spills objects, and where artifacts go.
    paths = [ray_node.get_temp_dir_path()]
    paths += [storage.uri] if storage is not None and storage.is_local else []
    asked = {name: probe.facts.remote(paths) for name, probe in probes.items()}
    facts, findings = {}, []
    for name, answer in asked.items():
        try:
            facts[name] = ray.get(answer, timeout=_ANSWER_S)
        except RayError as error:
            findings.append(node_failed(name, cause(error)))
    return facts, findings


def _clock_offset(probe: Any) -> tuple[float, float]:
    """A node's clock less ours, and how far that may be off, from the quickest round trip."""
    rounds = []
    for _ in range(_CLOCK_ROUNDS):
        sent = time.time()
        there = ray.get(probe.now.remote(), timeout=_ANSWER_S)
        back = time.time()
        rounds.append(((back - sent) / 2, there - (sent + back) / 2))
    bound_s, offset_s = min(rounds)
    return offset_s, bound_s


def _examine_storage(storage: Location, probes: Mapping[str, Any]) -> list[Finding]:
    """The nodes write and read one after the other, so each figure is a node's own."""
    folder = storage / f".doctor-{secrets.token_hex(6)}"
    try:
        with one_try():
            (folder / "driver").write_bytes(b"seen")
        trials = {
            name: _try_storage(probe, folder, f"node-{i}")
            for i, (name, probe) in enumerate(probes.items())
        }
    except (OSError, StorageError) as error:
        trials = {_HERE: StorageTrial(error=str(error))}
    finally:
        with suppress(OSError, StorageError):  # what could not be written is not there either
            folder.delete_tree()
    return [judge_storage(name, trial, str(storage)) for name, trial in trials.items()]


def _try_storage(probe: Any, folder: Location, name: str) -> StorageTrial:
    trying = probe.try_storage.remote(folder, name, "driver", _STORAGE_BYTES)
    try:
        return ray.get(trying, timeout=_ANSWER_S)
    except RayError as error:
        return StorageTrial(error=cause(error))
