"""The peak of a CPU is measured: within its time, without a trace in what training computes."""

import math
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import events, losses, make_dataset, make_work, records, train_all

from raymodel.testing.distributed import run_distributed
from raymodel.train.forecast import matmul


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_peak_is_a_rate_that_a_product_reached_and_takes_no_randomness(
    precision: torch.dtype,
) -> None:
    before = torch.get_rng_state()
    assert 0 < matmul.measure_matmul(precision) < math.inf
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flops_per_s", [1e9, 1e11, 1e13])
def test_a_slow_and_a_fast_machine_are_measured_within_the_budget(
    flops_per_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def product_s(size: int, precision: torch.dtype) -> float:
        took_s = 1e-5 + 2.0 * size**3 / flops_per_s
        now[0] += took_s
        return took_s

    monkeypatch.setattr(matmul, "_product_s", product_s)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = matmul.measure_matmul(torch.bfloat16, budget_s=0.15)
    assert 0.5 * flops_per_s < found < flops_per_s
    assert now[0] <= 0.15


def test_a_run_on_a_cpu_says_its_utilisation_and_where_the_peak_is_from(tmp_path: Path) -> None:
    work = make_work(make_dataset(tmp_path), tmp_path / "run", duration="4 steps")
    run_distributed(train_all, 2, [work], init=False)
    logged = [record for record in records(work, "metrics") if "loss" in record]
    assert len(losses(work)) == 4
    assert all(0 < record["mfu"] < math.inf for record in logged)
    assert {record["mfu_peak"] for record in logged} == {"measured"}
    [attempt] = events(work, "attempt")
    assert attempt["mfu_peak"] == "measured"
    assert attempt["peak_flops_per_s"] > 0
