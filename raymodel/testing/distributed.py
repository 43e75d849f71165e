"""Real multi-process tests on one machine: each rank a process, gloo between them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_PORTS = range(20_000, 32_768)


class RankError(AssertionError):
    """A rank raised, died or did not finish; the message holds its traceback."""


def run_distributed(
    fn: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_s: float = 240.0,
    init: bool = True,
) -> list[Any]:
    """Calls `fn(rank, world_size, *args)` in `world_size` processes that have run nothing yet.

    Each process has one thread, the CPU accelerator, and RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR
    and MASTER_PORT as `torchrun` sets them.

    Args:
        fn: A function that can be imported (of a module, not a closure); results must pickle.
        timeout_s: For the whole call. Whatever still runs then is killed.
        init: Whether to join a gloo process group before `fn`; DeepSpeed tests start their own.

    Returns:
        What each rank returned, in the order of ranks.

    Raises:
        RankError: with the traceback of the rank that failed first.
    """
    # Not forked from the test process: a torch that has run may hang in its thread pools.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["raymodel.testing.preload"])
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        port = free_port()
        ranks = [
            context.Process(
                target=_run_rank,
                args=(fn, rank, world_size, port, folder, timeout_s, init, args),
                daemon=True,  # ends with the test process, whatever happens to it
            )
            for rank in range(world_size)
        ]
        try:
            for process in ranks:
                process.start()
            _wait(ranks, Path(folder), timeout_s)
        finally:
            for process in ranks:
                if process.pid is not None:
                    process.kill()
                    process.join()
        return [pickle.loads(_result_file(folder, rank).read_bytes()) for rank in range(world_size)]


def _wait(ranks: Sequence[BaseProcess], folder: Path, timeout_s: float) -> None:
    """Until all ranks ended well. One failure ends the wait: its peers would hang in gloo."""
    deadline = time.monotonic() + timeout_s
    while any(process.is_alive() for process in ranks):
        failed = [rank for rank, process in enumerate(ranks) if process.exitcode]
        if failed:
            break
        if time.monotonic() > deadline:
            alive = [rank for rank, process in enumerate(ranks) if process.is_alive()]
            raise RankError(f"ranks {alive} did not finish within {timeout_s} s")
        time.sleep(0.02)
    _check_ranks(ranks, folder)


def _check_ranks(ranks: Sequence[BaseProcess], folder: Path) -> None:
    # A rank that lost its peer fails too: what was written first is the cause.
    errors = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    if errors:
        raise RankError(f"rank {errors[0].stem} failed:\n{errors[0].read_text()}")
    for rank, process in enumerate(ranks):
        if process.exitcode:  # None is one that still runs: it did not fail first
            raise RankError(f"rank {rank} ended with exit code {process.exitcode}")


def _run_rank(
    fn: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    folder: str,
    timeout_s: float,
    init: bool,
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        DS_ACCELERATOR="cpu",
        TORCH_CPP_LOG_LEVEL="ERROR",  # gloo's notes on host names
    )
    try:
        import torch

        torch.set_num_threads(1)
        if init:
            torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
        result = fn(rank, world_size, *args)
        _result_file(folder, rank).write_bytes(pickle.dumps(result))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except BaseException:  # noqa: BLE001 (SystemExit too must reach the test)
        Path(folder, f"{rank}.error").write_text(traceback.format_exc())
        raise SystemExit(1) from None


def _result_file(folder: str, rank: int) -> Path:
    return Path(folder, f"{rank}.result")


def free_port() -> int:
    """A port of this machine that nobody holds now, and that no connection is given by chance.

    The system hands out the ports from 32,768 on to whoever connects, and Ray those from 10,002 to
    19,999 to its workers: one of these may be taken before it is used.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
