"""`raymodel doctor`: examines a cluster before an expensive start.

`nodes.py` looks at each node, `links.py` lets the workers talk to each other, both through the
actors of `probe.py`; `findings.py` judges what they saw.
"""

from __future__ import annotations

from contextlib import ExitStack

from raymodel.cluster.capacity import Shortage
from raymodel.cluster.connect import connect
from raymodel.cluster.findings import Finding, no_places
from raymodel.cluster.patience import aloud
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError
from raymodel.job.spec import Job
from raymodel.storage.uri import Location


def examine(address: str | None, job: Job | None = None) -> list[Finding]:
    """Examines a cluster.

    Args:
        address: a running Ray (`host:port`), or None for `RAY_ADDRESS`, else this machine.
        job: what is to run there: its storage and its workers' places are tried.

    Raises:
        ClusterError: no such cluster.
        LocationError: the job's storage has no valid name.
    """
    storage = Location.parse(job.storage) if job else None
    with ExitStack() as stack:
        with aloud(f"the Ray at {address}" if address else "Ray"):
            stack.enter_context(connect(address, job.cluster if job else ClusterSpec()))
        # These import ray, which must not happen before its token is set.
        from raymodel.cluster.links import examine_links, places_on_nodes
        from raymodel.cluster.nodes import examine_nodes

        if job is not None:
            return _examine_for(job.cluster, storage)
        return [*examine_nodes(None), *examine_links(places_on_nodes())]


def _examine_for(cluster: ClusterSpec, storage: Location | None) -> list[Finding]:
    from raymodel.cluster.links import examine_links, places_in_group
    from raymodel.cluster.nodes import examine_nodes
    from raymodel.cluster.places import check_resources, reserve

    told: list[Shortage] = []

    def tell_once(shortage: Shortage) -> None:
        if not told:
            print(f"waiting for {shortage}", flush=True)
        told[:] = [shortage]

    try:
        check_resources(cluster)
        # First, since on a cluster that scales from zero this brings the nodes.
        with reserve(cluster, tell_once) as group:
            nodes = examine_nodes(storage)
            return [*nodes, *examine_links(places_in_group(group, cluster))]
    except ClusterError as error:
        return [*examine_nodes(storage), no_places(str(error))]
