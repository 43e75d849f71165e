"""Training state on disk: what it says, and which checkpoints there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.observe.measures import find_best, measured
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.index import INDEX, Index, load_index
from raymodel.train.spec import TrainSpec

FOLDER = "checkpoints"


@dataclass(kw_only=True)
class TrainState:
    """What a run has done so far; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    rows: int = 0
    targets: int = 0
    bad_rows: int = 0
    non_finite_steps: int = 0
    data_digest: str = "0" * 16
    validation_loss: float | None = None
    """Measured after this very step; None when it was not, or is not finite."""
    left_out: list[list[int]] = field(default_factory=list)
    """Runs of data steps, `[first, stop]`, that a rewind passed over."""

    @property
    def data_step(self) -> int:
        """The next step of the data order, which runs ahead of `step` by what was left out."""
        return self.step + sum(stop - first for first, stop in self.left_out)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, which knows no NaN."""
        return asdict(self) | {"validation_loss": measured(self.validation_loss)}


def checkpoint_location(run: Location, step: int) -> Location:
    return run / FOLDER / f"step-{step:08d}"


def committed_steps(run: Location) -> list[int]:
    """Steps with a committed checkpoint, oldest first. Looks at names only."""
    steps = []
    for step, folder in _folders(run):
        if (folder / INDEX).exists():
            steps.append(step)
    return sorted(steps)


def find_checkpoint(
    run: Location, on_torn: Callable[[CheckpointError], None] = lambda error: None
) -> Index | None:
    """The newest checkpoint whose files are all there. A torn one is passed over.

    Args:
        on_torn: told of each that is passed over.

    Raises:
        CheckpointError: the newest was written by another version of raymodel.
    """
    for step in reversed(committed_steps(run)):
        try:
            return load_index(checkpoint_location(run, step))
        except DamagedCheckpointError as error:
            on_torn(error)
    return None


def find_best_checkpoint(run: Location) -> Index | None:
    """The whole checkpoint with the lowest validation loss, the earliest of equals; None when no
    loss of any is finite."""
    return find_best(_whole(run), lambda index: index.state["validation_loss"], higher=False)


def _whole(run: Location) -> Iterator[Index]:
    for step in committed_steps(run):
        with suppress(DamagedCheckpointError):
            yield load_index(checkpoint_location(run, step))


def find_exported(run: Location, spec: TrainSpec) -> Index | None:
    """The checkpoint whose weights become the model of a finished run; None when there is none."""
    return find_best_checkpoint(run) if spec.export == "best" else find_checkpoint(run)


def discard_after(run: Location, step: int) -> None:
    """Deletes what lies after `step`: torn checkpoints, and those that never were committed."""
    for found, folder in _folders(run):
        if found > step:
            discard(folder)


def discard_unfinished(run: Location, before: int) -> None:
    """Deletes what was begun at steps before this one and never was committed, as on a full disk.

    Safe once a checkpoint of step `before` is committed: then no rank writes an earlier one.
    """
    for found, folder in _folders(run):
        if found < before and not (folder / INDEX).exists():
            folder.delete_tree()


def withdraw_part(folder: Location, files: Iterable[str]) -> None:
    """Deletes one rank's files of a checkpoint that comes to nothing, and the folder with them when
    no other rank's are in it."""
    for name in files:
        (folder / name).delete_file()
    if folder.is_local and folder.local_path.is_dir() and not any(folder.local_path.iterdir()):
        folder.local_path.rmdir()


def discard(folder: Location) -> None:
    """Deletes one checkpoint, its index first: a half-deleted one must not count."""
    (folder / INDEX).delete_file()
    folder.delete_tree()


def _folders(run: Location) -> list[tuple[int, Location]]:
    return [
        (int(entry.name.removeprefix("step-")), run / FOLDER / entry.name)
        for entry in (run / FOLDER).list()
        if entry.is_dir and entry.name.startswith("step-")
    ]
