"""Which worker holds what: the layout of a worker group, and which models it can spread.

Ranks are numbered so that the workers of one matrix (`tensor`) are neighbours, then the workers of
one row (`sequence`), then the replicas that different rows go to. Neighbours lie in one node.
"""

from __future__ import annotations

from dataclasses import dataclass

from raymodel.errors import SpecError
from raymodel.train.spec import ParallelSpec


@dataclass(frozen=True)
class Layout:
    """One worker's place in its group."""

    world_rank: int = 0
    world_size: int = 1
    tensor: int = 1
    sequence: int = 1

    @classmethod
    def of(cls, parallel: ParallelSpec, world_rank: int, world_size: int) -> Layout:
        """The place of a rank.

        Raises:
            SpecError: the group cannot be cut into replicas of `tensor` x `sequence` workers.
        """
        check_workers(parallel, world_size)
        return cls(world_rank, world_size, parallel.tensor, parallel.sequence)

    @property
    def replica_workers(self) -> int:
        """Workers that see the same rows."""
        return self.tensor * self.sequence

    @property
    def data_rank(self) -> int:
        """Which replica this worker belongs to: decides its rows."""
        return self.world_rank // self.replica_workers

    @property
    def data_world_size(self) -> int:
        return self.world_size // self.replica_workers

    @property
    def tensor_rank(self) -> int:
        """Which part of each shared matrix this worker holds."""
        return self.world_rank % self.tensor

    @property
    def sequence_rank(self) -> int:
        """Which part of each row this worker computes."""
        return self.world_rank // self.tensor % self.sequence

    @property
    def grad_workers(self) -> int:
        """Workers whose gradients of one parameter are summed."""
        return self.world_size // self.tensor

    @property
    def grad_rank(self) -> int:
        """This worker's rank among those that hold the same part of each matrix."""
        return self.world_rank // self.tensor

    @property
    def speaks_for_rows(self) -> bool:
        """Whether this worker is the one of its replica that counts the rows."""
        return self.world_rank % self.replica_workers == 0

    @property
    def speaks_for_loss(self) -> bool:
        """Whether this worker's part of the loss counts: its tensor neighbours have the same."""
        return self.tensor_rank == 0


# Architectures that DeepSpeed's AutoTP and Ulysses train to the curve of plain data parallelism,
# as tests/train/test_train_parallel.py measures. The others are refused: gpt2, mixtral and phi3
# fail in AutoTP, t5 trains but its parts cannot be put together again, and an attention without
# `position_ids` or with a mask of its own (bert, gpt2, gpt_neox) cannot be cut by positions.
TENSOR = ("llama", "mistral", "qwen2", "qwen3")
SEQUENCE = ("llama", "mistral", "qwen2", "qwen3")


def check_workers(parallel: ParallelSpec, workers: int) -> None:
    """Raises SpecError when workers cannot be cut into replicas."""
    each = parallel.model_workers
    if workers % each:
        lower = workers // each * each
        raise SpecError(
            f"{workers} workers cannot be cut into replicas of tensor x sequence = "
            f"{parallel.tensor} x {parallel.sequence} = {each}; use "
            f"{f'{lower} or ' if lower else ''}{lower + each} workers, or a smaller layout"
        )
