"""Which rows belong to which step: a pure function of (parts, seed, step).

A run may have stages, each with weights of its own; they are among what the order is told. Nothing
else enters: not the number of workers, not restarts, not timing. Memory is constant in
the size of the corpus, and any step is found at once.

Three levels, from the stream of all steps down to a row:

1. **Mixture.** An epoch has `round(weight × rows)` places for each part. Place p of the epoch
   belongs to the part in whose share `(p · g + c) mod W` falls, with W places in all and g near
   W / golden ratio and coprime to W. Such a sequence (Weyl's) spreads the parts as evenly as can
   be, every epoch fills each share exactly, and how often a part came up before place p is a sum
   of floors, which Euclid's algorithm gives in O(log W).
2. **Blocks.** Each pass over a part permutes its blocks (row groups of its shards).
3. **Windows.** The permuted blocks are cut into windows of about 256 (shared out among the parts),
   and the rows of a window are permuted among themselves; so a reader that keeps one window of
   each part in memory reads each block once. A part with no more blocks than that is one window: a
   full permutation of its rows.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from raymodel.chance import Chance, derive_key, mix64
from raymodel.data.interleave import Interleave
from raymodel.data.permutation import Indices, Permutation
from raymodel.data.plan import WINDOW_BLOCKS


@dataclass(frozen=True)
class Part:
    """The rows of one source in a dataset."""

    rows: int
    rows_per_block: int
    weight: float = 1.0
    """Visits of each row in one epoch of the mixture."""

    @property
    def num_blocks(self) -> int:
        return -(-self.rows // self.rows_per_block)

    @property
    def visits(self) -> int:
        """Places of an epoch of the mixture that belong to this part."""
        return visits_of(self.rows, self.weight)


def visits_of(rows: int, weight: float) -> int:
    """Places of an epoch for so many rows; what weighs nothing has none."""
    return max(1, round(weight * rows)) if weight else 0


@dataclass(frozen=True)
class Leg:
    """A stage of a run: the steps from one on, with weights of their own."""

    first_step: int
    weights: tuple[float, ...]
    """Of each part."""


class Order:
    """The rows of every step of training."""

    def __init__(
        self,
        parts: Sequence[Part],
        seed: int,
        global_batch: int,
        window_blocks: int = WINDOW_BLOCKS,
        with_partners: bool = False,
        legs: Sequence[Leg] = (),
    ) -> None:
        """Args:
        parts: the parts of the dataset, in the order in which its row ids count through them.
        seed: the job's seed.
        global_batch: rows in a step, over all workers.
        window_blocks: blocks mixed at a time, over all parts, so that a reader's memory does not
            grow with their number; part of the order, so leave it.
        with_partners: whether those who read a row read its partner too.
        legs: the stages of the run, the first of which begins at step 0. Each goes on with the
            rows of a part where the one before it left off. By default one with the parts' weights.
        """
        assert parts, "a dataset has at least one part"
        assert all(part.rows > 0 for part in parts), "a part has at least one row"
        self.parts = tuple(parts)
        self.seed = seed
        self.global_batch = global_batch
        self.with_partners = with_partners
        self.window_blocks = max(1, window_blocks // len(parts))
        self.num_rows = sum(part.rows for part in parts)
        self._first_rows = np.cumsum([0, *(part.rows for part in parts)])
        self.rows_per_epoch = sum(part.visits for part in parts)
        """Rows in one epoch of the mixture; the number of rows where all weights are 1."""
        legs = legs or [Leg(0, tuple(part.weight for part in parts))]
        self._starts = [leg.first_step for leg in legs]
        assert self._starts[0] == 0, "the first stage begins with the run"
        self._streams = [
            Interleave([visits_of(p.rows, w) for p, w in zip(parts, leg.weights, strict=True)],
                       seed, stage)
            for stage, leg in enumerate(legs)
        ]  # fmt: skip
        self._before = [[0] * len(parts)]
        """Visits of each part before each stage."""
        for stage in range(1, len(legs)):
            self._before.append(self._visits_up_to(stage - 1, self._starts[stage]))
        most = max(stream.rows_per_epoch for stream in self._streams)
        assert most * global_batch < 2**62, "places are computed in 64 bits"

    def rows(self, step: int) -> Indices:
        """Row ids of the global batch of `step`, counted from 0, in their order. (global_batch,)"""
        stage = bisect_right(self._starts, step) - 1
        per_epoch = self._streams[stage].rows_per_epoch
        position = (step - self._starts[stage]) * self.global_batch
        end, pieces = position + self.global_batch, []
        while position < end:
            count = min(end - position, per_epoch - position % per_epoch)
            pieces.append(self._rows_in_epoch(stage, position, count))
            position += count
        return np.concatenate(pieces)

    def visits(self, step: int) -> list[int]:
        """Rows of each part that the steps before this one have visited, repeats among them."""
        return self._visits_up_to(bisect_right(self._starts, step) - 1, step)

    def _visits_up_to(self, stage: int, step: int) -> list[int]:
        """The same of a step that a stage reaches."""
        stream, position = self._streams[stage], (step - self._starts[stage]) * self.global_batch
        before = self._before[stage]
        return [count + stream.visits(index, position) for index, count in enumerate(before)]

    def partners(self, step: int) -> Indices:
        """Row ids of the partner of each row of `step`: of another one of the same step, as the
        whole order tells, and not the part of it that a worker happens to get. (global_batch,)

        They are the step's rows, moved round by a number of places that is drawn for each step:
        neighbours would always be of two parts where a mixture takes its parts in turn.
        """
        others = self.global_batch - 1
        chance = Chance("partners", self.seed, step)
        by = 1 + int(chance.integers(others, 1)[0]) if others else 0
        return np.roll(self.rows(step), -by)

    def _rows_in_epoch(self, stage: int, position: int, count: int) -> Indices:
        stream = self._streams[stage]
        part_of = stream.parts(position, count)
        row_ids = np.empty(count, dtype=np.int64)
        for part_index in map(int, np.unique(part_of)):
            chosen = np.flatnonzero(part_of == part_index)
            start = self._before[stage][part_index] + stream.visits(part_index, position)
            row_ids[chosen] = self._rows_of_part(part_index, start, len(chosen))
        return row_ids

    def _rows_of_part(self, part_index: int, start: int, count: int) -> Indices:
        """Visits `start` … `start + count` of a part, over its own passes, as row ids."""
        part, row_ids = self.parts[part_index], np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            passes, index = divmod(start + done, part.rows)
            taken = min(count - done, part.rows - index)
            indices = np.arange(index, index + taken, dtype=np.int64)
            shuffle = BlockShuffle(part, self.window_blocks, (self.seed, part_index, passes))
            row_ids[done : done + taken] = shuffle.rows(indices)
            done += taken
        return row_ids + int(self._first_rows[part_index])


class BlockShuffle:
    """One pass over one part: a permutation of its rows that keeps reading local."""

    def __init__(self, part: Part, window_blocks: int, key: tuple[int, int, int]) -> None:
        self._part, self._key = part, key
        self._num_windows = -(-part.num_blocks // window_blocks)

    def rows(self, indices: Indices) -> Indices:
        """Rows of the part at these places of the pass."""
        windows = self._window_of(indices // self._part.rows_per_block)
        rows = np.empty_like(indices)
        for window in np.unique(windows):
            chosen = windows == window
            rows[chosen] = self._rows_in_window(int(window), indices[chosen])
        return rows

    def _window_of(self, blocks: Indices) -> Indices:
        # Window w begins at floor(w · blocks / windows), so that windows differ by one block.
        return ((blocks + 1) * self._num_windows - 1) // self._part.num_blocks

    def _rows_in_window(self, window: int, indices: Indices) -> Indices:
        num_blocks, per_block = self._part.num_blocks, self._part.rows_per_block
        start = window * num_blocks // self._num_windows * per_block
        end = (window + 1) * num_blocks // self._num_windows * per_block
        end = min(end, self._part.rows)
        permute = _permutation(end - start, *self._key, window)
        places = permute(indices - start) + start
        return self._block_at(places // per_block) * per_block + places % per_block

    def _block_at(self, positions: Indices) -> Indices:
        """The block at each position of the pass; the short last block always stays last.

        Where it stays, its window mixes it with the others, and every window's first row is a
        plain product.
        """
        full = self._part.rows // self._part.rows_per_block
        if full == 0:
            return positions
        permute = _permutation(full, *self._key, -1)
        inside = positions < full
        return np.where(inside, permute(np.minimum(positions, full - 1)), positions)


@lru_cache(maxsize=256)
def _permutation(n: int, seed: int, part_index: int, passes: int, window: int) -> Permutation:
    return Permutation(n, derive_key(seed, part_index, passes, window))


def slice_for(rank: int, world_size: int, global_batch: int) -> tuple[int, int]:
    """Positions of the global batch that one worker trains on: start, and the one after the end.

    Contiguous, and as even as can be: the first `global_batch % world_size` workers get one more.
    """
    assert 0 <= rank < world_size, (rank, world_size)
    share, extra = divmod(global_batch, world_size)
    start = rank * share + min(rank, extra)
    return start, start + share + (rank < extra)


def local_sum(positions: Any, row_ids: Any) -> int:
    """One worker's term of a step's digest, as a signed 64-bit integer for `all_reduce`.

    Each (position in the global batch, row id) is hashed to 64 bits; the hashes are summed modulo
    2^64. The sum over all workers is therefore the same for any number of them.
    """
    positions_u64 = np.asarray(positions).astype(np.uint64) + np.uint64(1)
    row_ids_u64 = np.asarray(row_ids).astype(np.uint64)
    hashes = mix64(mix64(positions_u64 * np.uint64(0x9E3779B97F4A7C15)) + row_ids_u64)
    return int(hashes.sum(dtype=np.uint64).astype(np.int64))


class DataDigest:
    """A running hash over all rows consumed, in 16 hex digits: `data_digest` in the log."""

    def __init__(self, state_hex: str = "0" * 16) -> None:
        self.hex = state_hex

    def update(self, step: int, total_sum: int) -> DataDigest:
        """Adds a step, given the sum of `local_sum` over all workers (modulo 2^64)."""
        record = f"{self.hex}:{step}:{total_sum % 2**64:016x}"
        self.hex = hashlib.blake2b(record.encode(), digest_size=8).hexdigest()
        return self
