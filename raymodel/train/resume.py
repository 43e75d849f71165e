"""Where a group of workers goes on: the newest checkpoint that is whole for all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from raymodel.errors import CheckpointError, DamagedCheckpointError, TrainingError
from raymodel.storage.uri import Location
from raymodel.train.checkpoint import (
    TrainState,
    checkpoint_location,
    discard,
    discard_after,
    find_checkpoint,
    load_checkpoint,
)
from raymodel.train.engine import Engine
from raymodel.train.fragments import Index, load_index


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
