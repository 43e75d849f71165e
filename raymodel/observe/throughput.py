"""Tokens per second and model FLOPs utilisation (MFU): pure arithmetic.

MFU = FLOPs per token × tokens per second ÷ (peak FLOPs per second of a device × devices), with
the FLOPs that the model needs, not those that recomputation adds (PaLM, arXiv:2204.02311, app. B).
"""

from __future__ import annotations

# Peak dense bf16 FLOP/s on tensor cores, without sparsity. The first key that is part of the
# device's name (`torch.cuda.get_device_name`) decides, so special forms stand before plain ones.
# Sources: NVIDIA and AMD data sheets. Where those quote sparse figures (H100 and later, L4, L40S),
# this is half of them.
_PEAK_BF16_FLOPS = (
    ("B200", 2250e12),  # https://resources.nvidia.com/en-us-dgx-systems/dgx-b200-datasheet
    ("H200 NVL", 835e12),  # https://www.nvidia.com/en-us/data-center/h200/
    ("H200", 989e12),  # the same page, SXM
    ("GH200", 989e12),  # https://resources.nvidia.com/en-us-grace-cpu/grace-hopper-superchip
    ("H100 NVL", 835e12),  # https://www.nvidia.com/en-us/data-center/h100/
    ("H100 PCIe", 756e12),  # the first H100 data sheet
    ("H100", 989e12),  # SXM
    ("A100", 312e12),  # https://www.nvidia.com/en-us/data-center/a100/
    ("L40S", 362e12),  # https://www.nvidia.com/en-us/data-center/l40s/
    ("L4", 121e12),  # https://www.nvidia.com/en-us/data-center/l4/
    ("A10", 125e12),  # https://www.nvidia.com/en-us/data-center/products/a10-gpu/
    ("MI300X", 1307e12),  # https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html
)


def find_peak_flops(device_name: str | None) -> float | None:
    """Peak bf16 FLOP/s of one device.

    Args:
        device_name: as the driver reports it; None for a CPU.

    Returns:
        None on a CPU and for devices that are not in the table: no figure is better than a guess.
    """
    if device_name is None:
        return None
    name = f" {device_name.replace('-', ' ')} "
    for key, flops in _PEAK_BF16_FLOPS:
        if f" {key} " in name:
            return flops
    return None


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
