"""Findings: what is seen on a cluster's nodes, judged. Pure: no Ray, nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raymodel.cluster.probe import NodeFacts, ReduceTrial, StorageTrial

Verdict = Literal["ok", "note", "fails"]

# Ray takes no more objects to a disk that is fuller (`local_fs_capacity_threshold`):
# docs.ray.io/en/latest/ray-core/objects/object-spilling.html
DISK_FULL = 0.95
DISK_NEARLY_FULL = 0.90
# S3 refuses requests that are further off (RequestTimeTooSkewed):
# docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
SKEW_FAILS_S = 900.0
# Records of several nodes are put in order by their time.
SKEW_NOTE_S = 1.0
# Less than a link of 1 Gbit/s; a step then waits longer for its gradients than it computes.
SLOW_REDUCE_BYTES_PER_S = 125e6


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    check: str
    where: str
    """A node's name, or "all nodes"."""
    verdict: Verdict
    seen: str
    fix: str = ""
    """What to do; given unless the verdict is ok."""

    def row(self) -> dict[str, object]:
        """Its line of the table."""
        return {"check": self.check, "where": self.where, "": self.verdict, "seen": self.seen}


def judge_versions(facts: Mapping[str, NodeFacts]) -> list[Finding]:
    """Every package must be there, in one version.

    Args:
        facts: by node; the first is the reference.
    """
    reference = next(iter(facts.values())).versions
    return [_judge_version(package, facts, reference[package]) for package in reference]


def _judge_version(package: str, facts: Mapping[str, NodeFacts], wanted: str) -> Finding:
    nodes_by_version: dict[str, list[str]] = {}
    for node, fact in facts.items():
        nodes_by_version.setdefault(fact.versions[package], []).append(node)
    check = f"version of {package}"
    if list(nodes_by_version) == [wanted] and wanted != "absent":
        return Finding(check, "all nodes", "ok", wanted)
    seen = "; ".join(f"{text} on {', '.join(nodes)}" for text, nodes in nodes_by_version.items())
    fix = (
        f"install {package} on every node, the same version on all"
        if "absent" in nodes_by_version
        else f"install {package} {wanted} on every node, or use one container image for all"
    )
    return Finding(check, "all nodes", "fails", seen, fix)


def judge_disks(node: str, facts: NodeFacts) -> list[Finding]:
    """Disks must have room."""
    findings = []
    for path, (free, total) in facts.disks.items():
        used = 1 - free / total
        seen = f"{path}: {_size(free)} free, {used:.0%} full"
        verdict: Verdict = (
            "fails" if used > DISK_FULL else "note" if used > DISK_NEARLY_FULL else "ok"
        )
        fix = f"free some of it: over {DISK_FULL:.0%} Ray stores nothing more there"
        findings.append(Finding("disk", node, verdict, seen, "" if verdict == "ok" else fix))
    return findings


def judge_shared_memory(node: str, facts: NodeFacts, object_store_bytes: float) -> list[Finding]:
    """Shared memory should hold Ray's object store, or the store lies on a disk."""
    size = facts.shared_memory_bytes
    if size is None:
        return []
    seen = f"{_size(size)} of shared memory, {_size(object_store_bytes)} object store"
    if size >= object_store_bytes:
        return [Finding("shared memory", node, "ok", seen)]
    return [
        Finding(
            "shared memory",
            node,
            "note",
            seen,
            "Ray's objects lie on a disk and are slow: start the container with a larger "
            "--shm-size, in Kubernetes mount an emptyDir with `medium: Memory` at /dev/shm",
        )
    ]


def judge_clock(node: str, offset_s: float, bound_s: float) -> Finding:
    """A node's clock must agree with the driver's.

    Args:
        offset_s: the node's clock less the driver's, at the middle of a round trip.
        bound_s: half of that round trip: the offset is uncertain by so much.
    """
    at_least_s = max(0.0, abs(offset_s) - bound_s)
    seen = f"{offset_s:+.3f} s (± {bound_s:.3f}) from the driver's"
    if at_least_s <= SKEW_NOTE_S:
        return Finding("clock", node, "ok", seen)
    verdict: Verdict = "fails" if at_least_s > SKEW_FAILS_S else "note"
    return Finding("clock", node, verdict, seen, "run chrony or another NTP client on the node")


def judge_storage(node: str, trial: StorageTrial, storage: str) -> Finding:
    """Every node must write to the storage, and see there what others write."""
    if trial.error:
        fix = (
            "give the node the permission or the credentials (`raymodel submit --env NAME`), or "
            "set `storage:` to a place that it reaches"
        )
        return Finding("storage", node, "fails", f"{storage}: {trial.error}", fix)
    seen = (
        f"{storage}: writes {trial.write_bytes_per_s / 1e6:.0f} MB/s, "
        f"reads {trial.read_bytes_per_s / 1e6:.0f} MB/s"
    )
    if trial.sees_others:
        return Finding("storage", node, "ok", seen)
    return Finding(
        "storage",
        node,
        "fails",
        f"{storage}: what the driver writes is not seen here",
        "use a bucket, or a folder that all nodes mount: this one is a disk of the node's own",
    )


def judge_reduce(trial: ReduceTrial) -> Finding:
    """The workers must reach each other, fast enough."""
    plural = "s" if trial.num_nodes > 1 else ""
    where = f"{trial.num_workers} workers on {trial.num_nodes} node{plural}"
    seen = (
        f"{_size(trial.num_bytes)} in {trial.seconds * 1000:.0f} ms over {trial.backend}: "
        f"{trial.bus_bytes_per_s / 1e9:.2f} GB/s bus bandwidth"
    )
    if not trial.is_right:
        fix = "the network or a device corrupts data: take nodes out until the sum is right"
        return Finding("all-reduce", where, "fails", f"the sum is wrong; {seen}", fix)
    if trial.bus_bytes_per_s < SLOW_REDUCE_BYTES_PER_S:
        fix = (
            "put the nodes into one zone, or name the fast network in GLOO_/NCCL_SOCKET_IFNAME"
            if trial.num_nodes > 1
            else "inside a node only other work is so slow: see what else uses its cores"
        )
        return Finding("all-reduce", where, "note", seen, fix)
    return Finding("all-reduce", where, "ok", seen)


def reduce_failed(num_workers: int, cause: str) -> Finding:
    """The workers could not form a group."""
    return Finding(
        "all-reduce",
        f"{num_workers} workers",
        "fails",
        cause,
        "open all TCP ports between the nodes; on nodes with several networks set "
        "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more",
    )


def no_places(cause: str) -> Finding:
    """The cluster can never hold the job's workers."""
    return Finding("places", "all nodes", "fails", *cause.rsplit("; ", 1))


def node_failed(node: str, cause: str) -> Finding:
    """A node that could not be looked at."""
    return Finding(
        "node",
        node,
        "fails",
        cause,
        "install raymodel with its dependencies on the node, the same as on the others; the log "
        "of its worker is in the dashboard",
    )


def exit_code(findings: list[Finding]) -> int:
    """1 when a job would fail, else 0."""
    return int(any(finding.verdict == "fails" for finding in findings))


def _size(num_bytes: float) -> str:
    for scale, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes:.0f} B"
