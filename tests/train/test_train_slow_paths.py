"""What a worker falls back to is told to the driver, through the run's events."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import events, make_dataset, make_work, train_here

from raymodel.errors import SlowPathError
from raymodel.model import kernels
from raymodel.observe.slow_paths import slow_paths
from raymodel.testing.distributed import run_distributed
from raymodel.train.spec import PretrainSpec
from raymodel.train.step import engine
from raymodel.train.work import TrainWork, summary


def spec(**fields: Any) -> PretrainSpec:
    known = {"model": {"preset": "llama-tiny"}, "global_batch": 8, "duration": "1 step"}
    return PretrainSpec.model_validate(known | fields)


def engine_with(**options: Any) -> Any:
    """As DeepSpeed's, with an optimizer of torch within one of its own."""
    inner = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], **options)
    return SimpleNamespace(optimizer=SimpleNamespace(optimizer=inner))


def test_a_fused_update_says_nothing_and_another_is_refused() -> None:
    engine._note_optimizer(engine_with(fused=True), spec())
    with pytest.raises(SlowPathError, match="updates parameter by parameter"):
        engine._note_optimizer(engine_with(), spec())


def test_bf16_on_a_cpu_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_fast, told in ((True, []), (False, ["computes products of bf16 in fp32"])):
        monkeypatch.setattr(engine, "has_fast_bf16", lambda device, fast=is_fast: fast)
        engine._check_precision("bf16")
        assert [path.what for path in slow_paths()] == told


def as_without_bf16(rank: int, world_size: int, work: TrainWork) -> None:
    engine.has_fast_bf16 = lambda device: rank == 0  # type: ignore[attr-defined]
    assert kernels.has_fast_bf16 is not engine.has_fast_bf16  # type: ignore[attr-defined]
    train_here(rank, world_size, work)


def test_what_one_worker_falls_back_to_stands_in_the_manifest(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    fields = {
        "duration": "2 steps",
        "validate_every": "2 steps",
        "checkpoint": {"every": "2 steps"},
    }
    slow = make_work(dataset, tmp_path / "slow", precision="bf16", **fields)
    fast = make_work(dataset, tmp_path / "fast", precision="fp32", **fields)
    run_distributed(as_without_bf16, 2, slow, init=False)
    run_distributed(train_here, 1, fast, init=False)
    [told] = events(slow, "slow_path")
    assert told["level"] == "warning", "the driver shows it while the run goes on"
    [path] = summary(slow.run, slow.spec)["slow_paths"]
    assert path["what"] == "computes products of bf16 in fp32"
    assert "precision: fp32" in path["why"]
    assert summary(fast.run, fast.spec)["slow_paths"] == []
