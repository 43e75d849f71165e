"""What a worker's cores can do at most: the rate of a matrix product, measured when it starts.

No table knows the peak of a processor: it hangs on how many of its cores the worker has, on their
clock, and on which number formats they compute by themselves.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from raymodel.observe.throughput import MEASURED, Peak, data_sheet_peak

BUDGET_S = 0.15
"""Seconds to measure for: beside the seconds of a start it is not felt, and the best of many
products of this time differs by a few percent from that of a minute."""
SIZES = (128, 256, 512, 1024)
"""Widths of the square matrices, the later ones nearer to the peak. Where a number format is only
emulated, the largest would take seconds."""


TRIES = 2
"""Products of a size in a row: the first wakes the library, and one may meet a busy moment."""


def peak_of_workers(precision: torch.dtype, device: torch.device) -> Peak | None:
    """The peak of all workers together; None when a device of theirs is not known.

    Called by every rank. On a CPU all measure at the same moment, each with its own threads, so
    that cores which several workers share are counted once.
    """
    if device.type == "cuda":
        own = data_sheet_peak(torch.cuda.get_device_name(device))
    else:
        dist.barrier()
        own = Peak(measure_matmul(precision), MEASURED)
    rates = torch.tensor([own.flops_per_s if own else float("nan")], dtype=torch.float64)
    rates = rates.to(device)
    dist.all_reduce(rates)
    total = float(rates)
    return Peak(total, own.source) if own is not None and total == total else None


def measure_matmul(precision: torch.dtype, budget_s: float = BUDGET_S) -> float:
    """FLOP/s of the fastest product found within the budget, on this process's threads.

    Draws no random numbers: training's own must not depend on it.
    """
    until, best, size, took_s = time.perf_counter() + budget_s, 0.0, SIZES[0], 0.0
    while time.perf_counter() + TRIES * took_s < until:
        took_s = min(_product_s(size, precision) for _ in range(TRIES))
        best = max(best, _flops(size) / took_s)
        larger = [each for each in SIZES if each > size]
        # Twice as long as by this rate: what does not fit the caches may be slower.
        if larger and time.perf_counter() + 2 * TRIES * _flops(larger[0]) / best < until:
            size, took_s = larger[0], _flops(larger[0]) / best
    return best


def _product_s(size: int, precision: torch.dtype) -> float:
    one = torch.full((size, size), 0.5, dtype=precision)
    began = time.perf_counter()
    torch.mm(one, one)
    return time.perf_counter() - began


def _flops(size: int) -> float:
    return 2.0 * size**3
