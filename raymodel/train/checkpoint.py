"""Training state on disk: which checkpoints there are, and loading one at any world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from raymodel.errors import CheckpointError
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def checkpoint_location(run: Location, step: int) -> Location:
    return run / FOLDER / f"step-{step:08d}"


def committed_steps(run: Location) -> list[int]:
    """Steps with a committed checkpoint, oldest first. Looks at names only."""
    steps = []
    for entry in (run / FOLDER).list():
        if entry.is_dir and (run / FOLDER / entry.name / INDEX).exists():
            steps.append(int(entry.name.removeprefix("step-")))
    return sorted(steps)


def find_checkpoint(
    run: Location, on_torn: Callable[[CheckpointError], None] = lambda error: None
) -> Index | None:
    """The newest whole checkpoint. A torn one is passed over, and `on_torn` is told."""
    for step in reversed(committed_steps(run)):
        try:
            return load_index(checkpoint_location(run, step))
        except CheckpointError as error:
            on_torn(error)
    return None


def discard_after(run: Location, step: int) -> None:
    """Deletes what lies after `step`: torn checkpoints, and those that never were committed."""
    for entry in (run / FOLDER).list():
        if entry.is_dir and int(entry.name.removeprefix("step-")) > step:
            folder = run / FOLDER / entry.name
            (folder / INDEX).delete_file()  # first, so that a half-deleted one is not committed
            folder.delete_tree()


def load_checkpoint(
    run: Location, index: Index, engine: Engine, rank: int, world_size: int
) -> TrainState:
    """Fills the engine from a checkpoint of any world size and ZeRO stage.

    Each rank reads the byte ranges of the state that it holds, and nothing else.

    Raises:
        CheckpointError: when the checkpoint does not fit the model, or its bytes are damaged.
    """
    reader = FragmentReader(checkpoint_location(run, index.step), index)
    inner = engine.deepspeed
    zero.prepare_moments(inner, index.moments, index.updates)
    for part in zero.held_slices(inner):
        _check_shape(index, part)
        for key, view in zero.state_tensors(inner, part).items():
            reader.read(part.name, key, part.start, view)
    zero.refresh_weights(inner)
    zero.restore_counters(inner, index.counters, engine.batch.accumulation)
    if world_size == index.world_size:
        restore_rng(reader.rng(rank))
    reader.close()
    return TrainState(**index.state)


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
