"""The error tree. Every error carries its exit code, and pickles with its payload.

The class follows from the cause, and the exit code from the class:

- `UserError`, 2: the job file or an input of the command is wrong. The same command would fail on
  every cluster and at any time, so whoever runs it by a program should not try again.
- everything else, 1: the state of a cluster, a storage, a machine or the training decided. A
  `LastingError` would meet the same workers again, so the run does not retry it by itself; another
  attempt later, or elsewhere, may pass.
- `GateError`, 3: the run is whole and the model is not good enough.

The message of a `UserError` always holds three things: the value seen, the rule, and the fix.
Errors cross process borders (Ray pickles them), so each class keeps its constructor arguments in
`args` and adds nothing that is built only in `__init__`.
"""

from __future__ import annotations


class RaymodelError(Exception):
    """The root. `exit_code` is what the command line returns when this error ends it."""

    exit_code = 1


# ---- the job file and the inputs -----------------------------------------------------------------


class UserError(RaymodelError, ValueError):
    """The job file, the data or a request is wrong; trying again without a change cannot help."""

    exit_code = 2


class SpecError(UserError):
    """A job file that cannot be accepted: unknown key, wrong type, impossible combination."""


class LocationError(UserError):
    """A name of a storage that cannot be accepted: unknown scheme, no bucket, a secret in it."""


class RequestError(UserError):
    """What a command was told is wrong: no address of a dashboard, a token that the head refuses, a
    submission or a folder that is not there, a directory that cannot travel."""


class FormError(RequestError):
    """The form that an answer was asked to have is none: no grammar can be made of it."""


class SourceError(UserError):
    """A data source that is missing, empty or unreadable."""


class MissingSourceError(SourceError):
    """Nothing lies where a source or a tokenizer should. Another machine may see it."""


class ArtifactError(UserError):
    """An artifact that is missing, cut short, edited, or of an unknown format version."""


class MissingArtifactError(ArtifactError):
    """Nothing lies where a model or dataset should. It may be made yet, or be seen elsewhere."""


class ShardError(ArtifactError):
    """A data shard that is missing or corrupt; the message names it."""


# ---- the cluster, the storage, the training ------------------------------------------------------


class LastingError(RaymodelError):
    """Not the file's fault, but the same workers would meet it again: not retried within a run."""


class StorageError(LastingError):
    """A storage that cannot be reached or written, lacks a file, or is in use by another."""


class ClusterError(LastingError):
    """The cluster cannot be reached, or cannot give what the job asks for as it is now."""


class PortError(LastingError):
    """The port to serve on is taken, or may not be opened on this machine."""


class CheckpointError(LastingError):
    """A training checkpoint that cannot be loaded."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that was cut short or changed; the one before it is used instead."""


class NonFiniteLossError(LastingError):
    """The loss became NaN or infinite, and the job says to stop."""


class OutOfMemoryError(LastingError):
    """A worker ran out of memory; the message says which knob saves how much."""


class SlowPathError(LastingError):
    """Something would be done in a slower way than was meant, and the environment refuses that."""


class StorageUnavailableError(RaymodelError, OSError):
    """A storage that failed at every try; an infrastructure failure, worth another attempt."""


class AccountError(RaymodelError):
    """Records that were read and are not accounted for: a fault of raymodel, not of the data."""


class NotPlannedError(RaymodelError):
    """Nothing can be computed for a stage yet, though nothing is wrong with it."""


class TrainingError(RaymodelError):
    """A training run failed after its budget of retries; the cause is chained or named."""


class HangError(RaymodelError):
    """No step finished for longer than the hang limit; an infrastructure failure."""


class PreemptedError(RaymodelError):
    """A worker was told to leave; it saved a checkpoint first, so the run can go on from there."""


class GateError(RaymodelError):
    """An evaluation gate was not met."""

    exit_code = 3
