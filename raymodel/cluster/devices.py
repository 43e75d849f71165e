"""Known accelerators, and the machines that a plan is made for: `--on h100:8x4`.

Loads only YAML, so that a plan needs neither Ray nor a device.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from raymodel.errors import SpecError
from raymodel.spec.quantity import parse_bytes

DEVICES_FILE = Path(__file__).with_name("devices.yaml")

USABLE = 0.92
"""The share of a device's memory that a plan fills: the rest is for the CUDA context (about half a
GiB), NCCL's buffers (some hundred MiB for each communicator), and what the allocator cannot use
because it lies in pieces."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator."""

    name: str
    driver: str
    """A part of the name that the driver gives it."""
    memory_bytes: int
    bf16_flops_per_s: float
    """Peak of dense bf16, without sparsity."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Equal machines to plan for."""

    nodes: int
    device: Device | None
    """None for machines without accelerators."""
    per_node: int
    """Devices of one machine; 0 without accelerators."""
    host_bytes: int | None = None
    """Memory of one machine, where it is known."""

    @property
    def devices(self) -> int:
        return self.nodes * self.per_node

    def usable_bytes(self, workers: int) -> float:
        """What one of so many workers may fill, spread evenly over the machines."""
        if self.device is not None:
            return USABLE * self.device.memory_bytes
        assert self.host_bytes is not None, "a machine without devices was given by its memory"
        return USABLE * self.host_bytes / -(-workers // self.nodes)

    def __str__(self) -> str:
        if self.device is None:
            return f"{self.nodes} × {(self.host_bytes or 0) / 2**30:.0f} GiB machines"
        return f"{self.nodes} × {self.per_node} {self.device.name}"


@cache
def load_devices() -> dict[str, Device]:
    """Name → device, special forms before plain ones."""
    entries = yaml.safe_load(DEVICES_FILE.read_text(encoding="utf-8"))
    return {
        name: Device(
            name=name,
            driver=entry["driver"],
            memory_bytes=parse_bytes(entry["memory"]),
            bf16_flops_per_s=entry["bf16_flops_per_s"],
            source=entry["source"],
        )
        for name, entry in entries.items()
    }


def find_device(driver_name: str) -> Device | None:
    """The device that a driver calls so; None when it is not known: better than a guess."""
    name = _words(driver_name)
    return next((each for each in load_devices().values() if _words(each.driver) in name), None)


def _words(name: str) -> str:
    return f" {name.replace('-', ' ')} "


def parse_fleet(text: str) -> Fleet:
    """`h100:8x4` → four machines of eight H100; `64GiBx2` → two of 64 GiB without accelerators.

    Raises:
        SpecError: another form, or an unknown device; the message holds the nearest name.
    """
    form = re.fullmatch(r"([a-z0-9-]+)(?::(\d+)(?:x(\d+))?)?", text)
    if form and not re.fullmatch(r"\d.*", text):
        return _accelerators(form[1], int(form[2] or 1), int(form[3] or 1), text)
    form = re.fullmatch(r"([\d.]+\s*[KMGT]?i?B)(?:x(\d+))?", text)
    if form and int(form[2] or 1) > 0:
        try:
            memory = parse_bytes(form[1])
        except ValueError as error:
            raise SpecError(f"--on {text}: {error}") from error
        return Fleet(nodes=int(form[2] or 1), device=None, per_node=0, host_bytes=memory)
    raise SpecError(
        f"--on {text!r} is not a set of machines; write DEVICE:PER_MACHINExMACHINES, like "
        "h100:8x4, or the memory of machines without accelerators, like 64GiBx2"
    )


def _accelerators(name: str, per_node: int, nodes: int, text: str) -> Fleet:
    devices = load_devices()
    if name not in devices:
        close = difflib.get_close_matches(name, devices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SpecError(
            f"--on {text}: {name!r} is not a known device; known are {', '.join(devices)}{hint} "
            "(raymodel/cluster/devices.yaml takes more)"
        )
    if per_node < 1 or nodes < 1:
        raise SpecError(f"--on {text}: {per_node} x {nodes} devices; give at least one of each")
    return Fleet(nodes=nodes, device=devices[name], per_node=per_node)
