"""Tokens per second and model FLOPs utilisation (MFU): pure arithmetic.

MFU = FLOPs per token × tokens per second ÷ (peak FLOPs per second of a device × devices), with
the FLOPs that the model needs, not those that recomputation adds (PaLM, arXiv:2204.02311, app. B).
"""

from __future__ import annotations

from raymodel.cluster.devices import find_device


def find_peak_flops(device_name: str | None) -> float | None:
    """Peak bf16 FLOP/s of one device.

    Args:
        device_name: as the driver reports it; None for a CPU.

    Returns:
        None on a CPU and for devices that are not in the table: no figure is better than a guess.
    """
    device = find_device(device_name) if device_name else None
    return device.bf16_flops_per_s if device else None


def tokens_per_s(tokens: int, seconds: float) -> float:
    """Tokens of all workers over wall time; 0 when no time has passed."""
    return tokens / seconds if seconds > 0 else 0.0


def mfu(
    flops_per_token: float, tokens_per_s: float, peak_flops: float | None, workers: int
) -> float | None:
    """Model FLOPs utilisation, 0 to 1.

    Args:
        flops_per_token: forward and backward, without recomputation.
        tokens_per_s: of all workers together.
        peak_flops: of one worker's device, from `find_peak_flops`; None when it is not known.
        workers: devices that train.

    Returns:
        None when the peak is not known, as on a CPU.
    """
    if peak_flops is None:
        return None
    return flops_per_token * tokens_per_s / (peak_flops * workers)
