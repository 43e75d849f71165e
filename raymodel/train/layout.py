"""Which worker holds what: the layout of a worker group.

Ranks are numbered so that the workers of one matrix (`tensor`) are neighbours, then the workers of
one row (`sequence`), then the replicas that different rows go to. Neighbours lie in one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raymodel.errors import ClusterError
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
        parallel.data_workers(world_size)
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

    def row_groups(self) -> list[list[int]]:
        """The ranks that share rows, for all of the group, `sequence` of them each."""
        firsts = (
            replica * self.replica_workers + tensor_rank
            for replica in range(self.data_world_size)
            for tensor_rank in range(self.tensor)
        )
        return [[first + i * self.tensor for i in range(self.sequence)] for first in firsts]

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


def check_nodes(layout: Layout, nodes: Sequence[str]) -> None:
    """Raises when the workers of a replica are not in one node.

    They exchange activations in every layer, which only the links inside a node are fast enough
    for. Ranks are numbered node by node, so this depends on the numbers of workers alone.

    Args:
        nodes: the node of each rank.

    Raises:
        ClusterError: with the number of workers on each node.
    """
    each = layout.replica_workers
    for first in range(0, len(nodes), each):
        if len(set(nodes[first : first + each])) > 1:
            sizes = ", ".join(str(count) for count in Counter(nodes).values())
            raise ClusterError(
                f"the nodes have {sizes} workers, and the {each} workers of a replica (tensor x "
                f"sequence = {layout.tensor} x {layout.sequence}) must be on one node; use nodes "
                f"with room for a multiple of {each} workers, or a smaller layout"
            )
