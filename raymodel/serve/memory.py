"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # of a container, version 2


def available_memory_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """What the machine has left without swapping, and the container at most."""
    left = [_available(meminfo)]
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        if limit != "max":
            left.append(max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # no container, or an older kernel: the machine's memory decides
    return min(left)


def free_bytes(device: str) -> int:
    """What may still be taken of a device's memory: `cpu`, or `cuda`, of which it is this one's."""
    if device == "cpu":
        return available_memory_bytes()
    import torch

    return int(torch.cuda.mem_get_info()[0])


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{meminfo} has no MemAvailable")
