"""Where a group of workers goes on: the newest checkpoint that is whole for all of them.

It loads at any world size and ZeRO stage: each rank reads the slices that it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from raymodel.errors import CheckpointError, DamagedCheckpointError, TrainingError
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.buffers import check_buffers, fill_buffers
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import Index, load_index
from raymodel.train.checkpoint.state import (
    TrainState,
    checkpoint_location,
    discard,
    discard_after,
    find_checkpoint,
)
from raymodel.train.layout import Layout
from raymodel.train.step import zero
from raymodel.train.step.engine import Engine


def resume(
    run: Location,
    engine: Engine,
    rank: int,
    world_size: int,
    on_torn: Callable[[CheckpointError], None],
) -> TrainState:
    """Fills a fresh engine from the newest whole checkpoint; called by all ranks.

    What is not whole is discarded, so that the same steps can be written again. Files that were cut
    short are seen at once; changed bytes only when they are read, and then the checkpoint before is
    loaded over what came of them.

    Args:
        on_torn: told, on rank 0, of each checkpoint that was passed over.

    Returns:
        The state of step 0 when there is no checkpoint.

    Raises:
        CheckpointError: the checkpoint was written for another model, or by another raymodel.
        TrainingError: the only checkpoint was damaged; another attempt starts anew.
    """
    mixed: DamagedCheckpointError | None = None
    while True:
        index = _agree_on_checkpoint(run, engine, rank, on_torn)
        if index is None and mixed is not None:
            raise TrainingError(f"{mixed}, and there is none before it; run again to start anew")
        if index is None:
            return TrainState()
        try:
            return load_checkpoint(run, index, engine, rank, world_size)
        except DamagedCheckpointError as error:
            mixed = error
            if rank == 0:
                on_torn(error)
                discard(checkpoint_location(run, index.step))


def _agree_on_checkpoint(
    run: Location, engine: Engine, rank: int, on_torn: Callable[[CheckpointError], None]
) -> Index | None:
    """Rank 0 looks for the newest whole checkpoint and clears what lies after it."""
    # -1 says that there is none: a run that may rewind has a checkpoint of step 0.
    step, index = torch.tensor(-1, dtype=torch.int64, device=engine.device), None
    if rank == 0:
        index = find_checkpoint(run, on_torn)
        step.fill_(index.step if index else -1)
        discard_after(run, int(step))
    dist.broadcast(step, src=0)
    if rank != 0 and step >= 0:
        index = load_index(checkpoint_location(run, int(step)))
    return index


def load_checkpoint(
    run: Location, index: Index, engine: Engine, rank: int, world_size: int
) -> TrainState:
    """Fills the engine from a checkpoint of any world size and ZeRO stage.

    Each rank reads the byte ranges of the state that it holds, the buffers of the model, and
    nothing else.

    Raises:
        CheckpointError: the checkpoint does not fit the model.
        DamagedCheckpointError: its bytes are damaged; on every rank alike. The engine then holds
            a mixture and must be filled from another checkpoint.
    """
    reader = FragmentReader(checkpoint_location(run, index.step), index)
    inner, rng, damage = engine.deepspeed, {}, None
    check_buffers(reader, inner.module)
    zero.prepare_moments(inner, index)
    try:
        _fill(reader, inner)
        if _has_layout(index, world_size, engine.layout):
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


def _has_layout(index: Index, world_size: int, layout: Layout) -> bool:
    """Whether each rank draws for the same part of the same rows as when this was written."""
    written = (index.world_size, index.tensor, index.sequence)
    return written == (world_size, layout.tensor, layout.sequence)


def _fill(reader: FragmentReader, inner: Any) -> None:
    for part in zero.held_slices(inner):
        _check_shape(reader.index, part)
        for key, view in zero.state_tensors(inner, part).items():
            reader.read_span(part.name, key, part.span, view)
    fill_buffers(reader, inner.module)


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
