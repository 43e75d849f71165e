"""measure_memory sees what a block takes at its worst moment, and what stays of it."""

import numpy as np

from raymodel.testing.distributed import run_distributed
from raymodel.testing.memory import measure_memory

MIB = 2**20


def grow(rank, world_size):
    before = np.ones(64 * MIB, dtype=np.uint8)  # of no matter: it was there before
    with measure_memory() as growth:
        kept = np.ones(16 * MIB, dtype=np.uint8)
        passing = np.ones(48 * MIB, dtype=np.uint8)
        del passing
    del before
    return growth.peak_bytes / MIB, growth.kept_bytes / MIB, len(kept)


def test_the_peak_and_what_stays_are_told_apart():
    peak, kept, _ = run_distributed(grow, 1, init=False)[0]
    assert 62 < peak < 70
    assert 15 < kept < 22
