"""Training state on disk: which checkpoints there are, and loading one at any world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.storage.uri import Location
from raymodel.train import zero
from raymodel.train.engine import Engine
from raymodel.train.fragments import INDEX, FragmentReader, Index, load_index

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
    left_out: list[list[int]] = field(default_factory=list)
    """Runs of data steps, `[first, stop]`, that a rewind passed over."""

    @property
    def data_step(self) -> int:
        """The next step of the data order, which runs ahead of `step` by what was left out."""
        return self.step + sum(stop - first for first, stop in self.left_out)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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


def discard_after(run: Location, step: int) -> None:
    """Deletes what lies after `step`: torn checkpoints, and those that never were committed."""
    for found, folder in _folders(run):
        if found > step:
            discard(folder)


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


def load_checkpoint(
    run: Location, index: Index, engine: Engine, rank: int, world_size: int
) -> TrainState:
    """Fills the engine from a checkpoint of any world size and ZeRO stage.

    Each rank reads the byte ranges of the state that it holds, and nothing else.

    Raises:
        CheckpointError: the checkpoint does not fit the model.
        DamagedCheckpointError: its bytes are damaged; on every rank alike. The engine then holds
            a mixture and must be filled from another checkpoint.
    """
    reader = FragmentReader(checkpoint_location(run, index.step), index)
    inner, rng, damage = engine.deepspeed, {}, None
    zero.prepare_moments(inner, index.moments, index.updates)
    try:
        _fill(reader, inner)
        if world_size == index.world_size:
            rng = reader.rng(rank)
    except DamagedCheckpointError as error:
        damage = error
    finally:
        reader.close()
    _agree_on_damage(damage, engine, run, index.step)
    zero.refresh_weights(inner)  # a collective under ZeRO-3
    zero.restore_counters(inner, index.counters, engine.batch.accumulation)
    restore_rng(rng)
    return TrainState(**index.state)


def _fill(reader: FragmentReader, inner: Any) -> None:
    for part in zero.held_slices(inner):
        _check_shape(reader.index, part)
        for key, view in zero.state_tensors(inner, part).items():
            reader.read(part.name, key, part.start, view)


def _agree_on_damage(
    damage: DamagedCheckpointError | None, engine: Engine, run: Location, step: int
) -> None:
    """Raises on all ranks when one of them found damage."""
    found = torch.tensor(int(damage is not None), device=engine.device)
    dist.all_reduce(found)
    if damage is not None:
        raise damage
    if found:
        raise DamagedCheckpointError(
            f"another worker found its part of {checkpoint_location(run, step)} damaged"
        )


def _check_shape(index: Index, part: zero.Slice) -> None:
    if part.name in index.parameters and index.shape(part.name) != part.shape:
        raise CheckpointError(
            f"{part.name} has shape {list(index.shape(part.name))} in the checkpoint and "
            f"{list(part.shape)} in the model; it was written for another model"
        )


def rng_states() -> dict[str, torch.Tensor]:
    """Random states of this process by device type."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_rng(states: dict[str, torch.Tensor]) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
