"""What `raymodel doctor` looks at on a node. Runs there as actors; nothing here knows Ray."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import raymodel
from raymodel.errors import StorageError
from raymodel.storage.retry import one_try
from raymodel.storage.uri import Location

PACKAGES = ("ray", "torch", "deepspeed", "transformers")
_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a node is, as far as a job depends on it."""

    versions: dict[str, str]
    """By package; an absent one is "absent"."""
    disks: dict[str, tuple[int, int]]
    """Free bytes and all bytes of the file system below each path that was asked for."""
    shared_memory_bytes: int | None
    """Size of /dev/shm; None where there is none, as on macOS."""


@dataclass(frozen=True, kw_only=True)
class StorageTrial:
    """One node's try at the storage."""

    error: str = ""
    sees_others: bool = True
    """Whether what the driver wrote can be read here."""
    write_bytes_per_s: float = 0.0
    read_bytes_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ReduceTrial:
    """One all-reduce over all workers."""

    num_workers: int
    num_nodes: int
    backend: str
    num_bytes: int
    seconds: float
    """Median over repetitions, of the slowest worker."""
    is_right: bool

    @property
    def bus_bytes_per_s(self) -> float:
        """What a ring moves over each link: comparable to the network's rate for any number of
        workers (github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md)."""
        n = self.num_workers
        return 2 * (n - 1) / n * self.num_bytes / self.seconds


class Probe:
    """Looks at the node that it runs on."""

    def facts(self, paths: Sequence[str]) -> NodeFacts:
        """Versions, disks and shared memory."""
        return read_facts(paths)

    def now(self) -> float:
        """This node's clock."""
        return time.time()

    def try_storage(self, folder: Location, name: str, seen: str, num_bytes: int) -> StorageTrial:
        """Writes a file, reads it back, and reads what the driver wrote.

        Args:
            folder: a folder of this examination alone.
            name: of the file to write.
            seen: of the file that the driver wrote.
            num_bytes: to write.
        """
        return try_storage(folder, name, seen, num_bytes)


class Rank:
    """One worker of a process group."""

    def open_store(self, host: str, num_workers: int, limit_s: float) -> int:
        """Opens the store through which the group meets; returns its port."""
        import torch.distributed as dist

        limit = timedelta(seconds=limit_s)
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            host, 0, num_workers, is_master=True, timeout=limit, wait_for_workers=False
        )
        return int(self._store.port)

    def join(
        self, host: str, port: int, rank: int, num_workers: int, backend: str, limit_s: float
    ) -> None:
        """Joins the group.

        Raises:
            RuntimeError: the others cannot be reached in time.
        """
        import torch.distributed as dist

        limit = timedelta(seconds=limit_s)
        if rank:
            self._store = dist.TCPStore(  # type: ignore[attr-defined]
                host, port, num_workers, is_master=False, timeout=limit
            )
        dist.init_process_group(
            backend, store=self._store, rank=rank, world_size=num_workers, timeout=limit
        )

    def reduce(self, num_bytes: int, repetitions: int) -> tuple[float, bool]:
        """Sums ones over the group: the median seconds, and whether the sum is right."""
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        seconds = []
        for _ in range(repetitions + 1):
            tensor = torch.ones(num_bytes // 4, device=device)
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(tensor)
            right = bool((tensor == dist.get_world_size()).all())  # waits for the device as well
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:]), right  # the first one connects


def read_facts(paths: Sequence[str]) -> NodeFacts:
    """Facts about this machine and this process's Python."""
    shared = shutil.disk_usage(_SHARED_MEMORY).total if os.path.isdir(_SHARED_MEMORY) else None
    return NodeFacts(
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "raymodel": f"{raymodel.__version__} ({source_digest()})",
        },
        disks={path: _disk(path) for path in paths},
        shared_memory_bytes=shared,
    )


def try_storage(folder: Location, name: str, seen: str, num_bytes: int) -> StorageTrial:
    """See `Probe.try_storage`."""
    content = secrets.token_bytes(num_bytes)
    try:
        started = time.perf_counter()
        with one_try():
            (folder / name).write_bytes(content)
        written = time.perf_counter()
        is_same = (folder / name).read_bytes() == content
        read = time.perf_counter()
        sees_others = (folder / seen).exists()
    except (OSError, StorageError) as error:
        return StorageTrial(error=str(error))
    return StorageTrial(
        error="" if is_same else "it gave back other bytes than were written",
        sees_others=sees_others,
        write_bytes_per_s=num_bytes / (written - started),
        read_bytes_per_s=num_bytes / (read - written),
    )


def source_digest() -> str:
    """Eight hex digits over raymodel's source, which may differ between nodes at equal versions."""
    root, digest = Path(raymodel.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _disk(path: str) -> tuple[int, int]:
    """Of the nearest folder that exists: a storage folder is made when a run begins."""
    there: Any = Path(path)
    while not there.exists():
        there = there.parent
    usage = shutil.disk_usage(there)
    return usage.free, usage.total
