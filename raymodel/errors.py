"""The error tree. Every error carries its exit code, and pickles with its payload.

The message of a `UserError` always holds three things: the value seen, the rule, and the fix.
Errors cross process borders (Ray pickles them), so each class keeps its constructor arguments in
`args` and adds nothing that is built only in `__init__`.
"""

from __future__ import annotations


class RaymodelError(Exception):
    """The root. `exit_code` is what the command line returns when this error ends it."""

    exit_code = 1


class UserError(RaymodelError, ValueError):
    """The job file, the data or a request is wrong; trying again without a change cannot help."""

    exit_code = 2


class SpecError(UserError):
    """A job file that cannot be accepted: unknown key, wrong type, impossible combination."""


class SourceError(UserError):
    """A data source that is missing, empty or unreadable."""


class AccountError(RaymodelError):
    """Records that were read and are not accounted for: a fault of raymodel, not of the data."""


class MissingSourceError(SourceError):
    """Nothing lies where a source or a tokenizer should. Another machine may see it."""


class StorageError(UserError):
    """A storage that cannot be reached or written."""


class StorageUnavailableError(RaymodelError, OSError):
    """A storage that failed at every try; an infrastructure failure, worth another attempt."""


class ArtifactError(UserError):
    """An artifact that is missing, cut short, edited, or of an unknown format version."""


class MissingArtifactError(ArtifactError):
    """Nothing lies where a model or dataset should. It may be made yet, or be seen elsewhere."""


class ShardError(ArtifactError):
    """A data shard that is missing or corrupt; the message names it."""


class CheckpointError(ArtifactError):
    """A training checkpoint that cannot be loaded."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that was cut short or changed; the one before it is used instead."""


class ClusterError(UserError):
    """The cluster can never give what the job asks for, or cannot be reached."""


class PortError(UserError):
    """The port to serve on is taken."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite, and the job says to stop."""


class OutOfMemoryError(UserError):
    """A worker ran out of memory; the message says which knob saves how much."""


class SlowPathError(UserError):
    """Something would be done in a slower way than was meant, and the environment refuses that."""


class TrainingError(RaymodelError):
    """A training run failed after its budget of retries; the cause is chained or named."""


class HangError(RaymodelError):
    """No step finished for longer than the hang limit; an infrastructure failure."""


class PreemptedError(RaymodelError):
    """A worker was told to leave; it saved a checkpoint first, so the run can go on from there."""


class GateError(RaymodelError):
    """An evaluation gate was not met."""

    exit_code = 3
