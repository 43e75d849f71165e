"""run_distributed: results by rank, the cause of a failure, no process left behind."""

import os
import socket
import time
from types import SimpleNamespace

import pytest
import torch

from raymodel.testing import distributed
from raymodel.testing.distributed import RankError, free_port, run_distributed


def sum_of_ranks(rank, world_size, factor):
    total = torch.tensor([float(rank * factor)])
    torch.distributed.all_reduce(total)
    return rank, total.item()


def fail_on_rank_one(rank, world_size):
    if rank == 1:
        raise ValueError("the reason")
    torch.distributed.barrier()


def hang(rank, world_size, folder):
    (folder / str(rank)).write_text(str(os.getpid()))
    time.sleep(600)


def test_each_rank_returns_its_own_result_and_they_talk_to_each_other():
    assert run_distributed(sum_of_ranks, 2, 10) == [(0, 10.0), (1, 10.0)]


def test_the_traceback_of_the_failing_rank_is_raised_and_not_that_of_its_peer():
    with pytest.raises(RankError, match=r"rank 1 failed:(.|\n)*ValueError: the reason"):
        run_distributed(fail_on_rank_one, 2)


def test_a_hang_is_killed_at_the_timeout(tmp_path, monkeypatch):
    def monotonic():
        """An hour later, once it hangs."""
        return 3600.0 if (tmp_path / "0").exists() and (tmp_path / "0").read_text() else 0.0

    clock = SimpleNamespace(monotonic=monotonic, sleep=time.sleep)
    monkeypatch.setattr(distributed, "time", clock)
    with pytest.raises(RankError, match="did not finish"):
        run_distributed(hang, 1, tmp_path, timeout_s=1800, init=False)
    pid = int((tmp_path / "0").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_free_port_is_held_by_nobody_and_given_to_nobody_by_chance() -> None:
    for _ in range(20):
        port = free_port()
        assert 20_000 <= port < 32_768
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
