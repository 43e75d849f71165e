"""One execution of one stage: what it reads, where it writes, and for whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raymodel.cluster.spec import ClusterSpec
from raymodel.spec.base import fingerprint

if TYPE_CHECKING:
    from raymodel.storage.artifact import Artifact
    from raymodel.storage.uri import Location

ATTEMPTS_FILE = "attempts.json"
"""Is in the folder of an execution from its first start on."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Given by the pipeline to a stage's `run`; picklable, so that it travels to Ray workers.

    A stage writes its result below `location` (`data/`, `model/` or `report/`) and returns the
    `content` of its manifest; the pipeline then commits the manifest, last. Whatever is already
    below `location` is the work of an earlier attempt, to be resumed by listing what is missing.
    """

    job_name: str
    stage: str
    fingerprint: str
    location: Location
    """`<storage>/<job name>/<stage>/<fingerprint>`."""
    seed: int
    cluster: ClusterSpec
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    """Complete input artifacts by role: `data` (of a mixture also `data-2`, …), `model`, `base`,
    `teacher`, `examples`."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Names for `observe.trackers.build_tracker`."""
    attempt: int = 1
    """Counts the starts of this execution, from 1."""


def execution_fingerprint(
    stage: str, *, seed: int, identity: Mapping[str, Any], inputs: Mapping[str, Artifact]
) -> str:
    """The name of an execution: a hash of all that decides its result.

    Args:
        stage: its name.
        seed: the job's.
        identity: what of the spec and of raw input decides the result.
        inputs: complete input artifacts by role.
    """
    return fingerprint(
        {
            "stage": stage,
            "seed": seed,
            "identity": identity,
            "inputs": {role: artifact.fingerprint for role, artifact in inputs.items()},
        }
    )
