"""Who holds a cluster's places: the apps on Ray Serve, and the other jobs.

Read out of the head's tables, since its State API needs the dashboard and Ray Serve's own status
needs its controller.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import (  # type: ignore[attr-defined]
    ActorTableData,
    JobTableData,
    PlacementGroupTableData,
)

from raymodel.cluster.capacity import Resources, resources_text

APP_PREFIX = "raymodel-"
_REPLICA = "ServeReplica:"  # Ray Serve's class of a replica is ServeReplica:APP:DEPLOYMENT
_SUBMISSION = "job_submission_id"
_SHOWN = 4  # the largest; a cluster may have hundreds


@dataclass(frozen=True)
class Holder:
    """Something that holds places."""

    name: str
    """Of the app, or the id of the submission; of a driver without one, its command."""
    is_app: bool
    resources: Resources

    def __str__(self) -> str:
        held = resources_text(self.resources)
        if not self.is_app:
            return f"job {self.name} ({held})"
        if self.name.startswith(APP_PREFIX):
            job = self.name.removeprefix(APP_PREFIX)
            return f"the app of job {job} ({held}; `raymodel stop --serving {job}` takes it down)"
        return f"the Serve app {self.name} ({held})"


def app_name_of(job_name: str) -> str:
    """Ray Serve's name for the application of a job."""
    return f"{APP_PREFIX}{job_name}"


def holders_text(holders: Iterable[Holder]) -> str:
    """`held by the app of job a (1 CPU; …), job b-…-1 (2 CPU)`; empty without any."""
    ordered = sorted(holders, key=lambda holder: -sum(holder.resources.values()))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"held by {', '.join(map(str, ordered[:_SHOWN]))}{more}" if ordered else ""


def find_holders(worker: Resources) -> list[Holder]:
    """Who holds what a worker needs on the Ray that this process is connected to, but for itself.

    Args:
        worker: resources by name; who holds none of these is left out.
    """
    accessor = state._connect_and_get_accessor()
    return sum_up(
        [ActorTableData.FromString(row) for row in accessor.get_actor_table(None, "ALIVE")],
        [PlacementGroupTableData.FromString(row) for row in accessor.get_placement_group_table()],
        [
            JobTableData.FromString(row)
            for row in accessor.get_job_table(
                skip_submission_job_info_field=True, skip_is_running_tasks_field=True
            )
        ],
        own_job=bytes.fromhex(ray.get_runtime_context().get_job_id()),
        names=set(worker),
    )


def sum_up(
    actors: Iterable[Any],
    groups: Iterable[Any],
    jobs: Iterable[Any],
    *,
    own_job: bytes,
    names: set[str],
) -> list[Holder]:
    """The holders in the head's tables, each with all that it holds of these resources."""
    known = {job.job_id: job for job in jobs}
    held: defaultdict[tuple[str, bool], Counter[str]] = defaultdict(Counter)

    def add(key: tuple[str, bool], resources: Mapping[str, float]) -> None:
        own = {name: resources[name] for name in names if resources.get(name)}
        if own:
            held[key].update(own)

    for actor in actors:
        is_replica = actor.class_name.startswith(_REPLICA)
        if is_replica:
            add((actor.class_name.split(":")[1], True), actor.required_resources)
        elif actor.job_id != own_job and not actor.placement_group_id.strip(b"\xff"):
            add((_job_name(known.get(actor.job_id)), False), actor.required_resources)
    for group in groups:
        if group.state == PlacementGroupTableData.CREATED and group.creator_job_id != own_job:
            for bundle in group.bundles:
                add((_job_name(known.get(group.creator_job_id)), False), bundle.unit_resources)
    return [Holder(name, is_app, dict(sums)) for (name, is_app), sums in held.items()]


def _job_name(job: Any) -> str:
    if job is None:
        return "of an unknown driver"
    return str(job.config.metadata.get(_SUBMISSION) or job.entrypoint or job.job_id.hex())
