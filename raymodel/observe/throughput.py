"""Model FLOPs utilisation (MFU): pure arithmetic.

MFU = FLOPs per token × tokens per second ÷ peak FLOPs per second of all workers, with the FLOPs
that the model needs, not those that recomputation adds (PaLM, arXiv:2204.02311, app. B).

The peak of an accelerator is that of its data sheet. On a CPU it is measured when training starts
(`train/forecast/matmul.py`): the sum, over the workers, of the rate of a matrix product in the
precision that is trained in, on each worker's own threads, all at the same moment. Workers that
share cores so share their peak, and what else ran at that moment lowers it: a peak that training
exceeds was none, and no figure comes of it.
"""

from __future__ import annotations

from typing import NamedTuple

from raymodel.cluster.devices import find_device

MEASURED, DATA_SHEET = "measured", "data sheet"


class Peak(NamedTuple):
    """The most FLOP/s that there are to use."""

    flops_per_s: float
    source: str
    """`MEASURED` or `DATA_SHEET`."""


def data_sheet_peak(device_name: str) -> Peak | None:
    """Of one accelerator in dense bf16, by the name that its driver reports.

    None for devices that are not in the table: no figure is better than a guess.
    """
    device = find_device(device_name)
    return Peak(device.bf16_flops_per_s, DATA_SHEET) if device else None


def mfu(flops_per_token: float | None, tokens_per_s: float, peak: Peak | None) -> float | None:
    """Model FLOPs utilisation, 0 to 1.

    Args:
        flops_per_token: forward and backward, without recomputation; None where they are not
            known.
        tokens_per_s: of all workers together.
        peak: of all workers together.

    Returns:
        None when the FLOPs or the peak are not known, or the measured peak is refuted.
    """
    if flops_per_token is None or peak is None or peak.flops_per_s <= 0:
        return None
    used = flops_per_token * tokens_per_s / peak.flops_per_s
    return None if used > 1 and peak.source == MEASURED else used
