"""The peak of a worker's memory, measured: what a plan of memory is held against.

What is measured is the peak of a process's resident memory during the third step, less what was
resident before the model was built. So that this is the memory of tensors and of nothing else:

- Linux keeps the peak, `VmHWM`; writing 5 to `/proc/self/clear_refs` sets it back to the present
  (proc(5)), so that the construction, which needs more, is not seen.
- glibc keeps freed memory for later. `mallopt` makes every block from 64 KiB on a mapping of its
  own, which is given back at once, and fixes this limit, which else grows with use (mallopt(3)).
- A tiny model trains first, in the same way: what is imported late, and the pages of code that run
  for the first time, are resident when the baseline is taken.
- The third step, because moments are made in the first, and ZeRO 3 knows what to fetch ahead, and
  what to keep, from the second on.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raymodel.heap import give_back_freed_memory
from raymodel.model.shape import ModelShape
from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.testing.memory import reset_peak, resident_bytes
from raymodel.train.forecast.memory import MemoryPlan, Setup, plan_memory
from raymodel.train.plan import plan_batch
from raymodel.train.spec import PretrainSpec

if TYPE_CHECKING:
    from raymodel.train.step.engine import Engine

STEPS = 3
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h

MODEL = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
TINY = MODEL | {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


@dataclass(frozen=True, kw_only=True)
class MemoryCase:
    """One run: the layout, and the rows of a micro batch."""

    zero: int
    tensor: int = 1
    workers: int = 2
    precision: str = "bf16"
    rows: int = 1
    tokens: int = 128
    accumulation: int = 1
    recomputes: bool = False
    saves: bool = False
    """Whether a checkpoint is written after the first step."""
    has_teacher: bool = False
    """Whether a model of the same size says what each batch should give."""

    @property
    def spec(self) -> PretrainSpec:
        replicas = self.workers // self.tensor
        return PretrainSpec.model_validate(
            {
                "model": {"architecture": "llama", "config": MODEL},
                "global_batch": self.rows * self.accumulation * replicas,
                "micro_batch": self.rows,
                "duration": "10 steps",
                "precision": self.precision,
                "activation_checkpointing": self.recomputes,
                "parallel": {"zero": self.zero, "tensor": self.tensor},
                "distill": {"teacher": "given"} if self.has_teacher else None,
            }
        )

    def plan(self) -> MemoryPlan:
        """What the plan says."""
        shape = ModelShape.of("llama", MODEL)
        setup = Setup.of(
            self.spec,
            self.workers,
            on_gpu=False,
            teacher=shape if self.has_teacher else None,
            row_tokens=self.tokens,
        )
        return plan_memory(shape, setup, row_tokens=self.tokens, checkpoints=self.saves)

    def measure(self) -> int:
        """Bytes at the peak of the worker that has the highest."""
        with tempfile.TemporaryDirectory() as folder:
            peaks: list[int] = run_distributed(
                measure_rank, self.workers, self, folder, init=False, timeout_s=600.0
            )
        return max(peaks)


# ---- in each rank --------------------------------------------------------------------------------


def measure_rank(rank: int, world_size: int, case: MemoryCase, folder: str) -> int:
    """By how many bytes the peak of the last step exceeds what was resident before the model."""
    from raymodel.train.step.engine import join_group

    warnings.simplefilter("ignore")
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 64 * 1024)
    libc.mallopt(_M_MMAP_MAX, 2**30)
    libc.mallopt(_M_TRIM_THRESHOLD, 0)
    join_group(use_gpu=False)
    train_steps(replace(case, tokens=16), TINY, Location.parse(folder) / "tiny")
    gc.collect()
    give_back_freed_memory()
    before = resident_bytes("VmRSS")
    return train_steps(case, MODEL, Location.parse(folder) / "model") - before


def train_steps(case: MemoryCase, config: dict[str, Any], run: Location) -> int:
    """Trains, and returns the peak of the last step."""
    import torch
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM

    from raymodel.model.build import build_config, outline_model
    from raymodel.model.initial import InitialWeights
    from raymodel.tasks import get_task
    from raymodel.train.checkpoint.saver import Saver
    from raymodel.train.checkpoint.state import TrainState
    from raymodel.train.distill.teacher import OpenTeacher
    from raymodel.train.step.engine import build_engine

    torch.manual_seed(0)
    llama: Any = AutoModelForCausalLM  # untyped upstream
    model = llama.from_config(build_config("llama", config))
    replicas = case.workers // case.tensor
    batch = plan_batch(case.spec.global_batch, case.rows, replicas)
    task, teacher = get_task("causal_lm")(), None
    if case.has_teacher:
        outline = outline_model(build_config("llama", config), task).requires_grad_(False)
        teacher = OpenTeacher(outline=outline, weights=InitialWeights(outline, 1))
    engine = build_engine(model, task, case.spec, batch, teacher=teacher)
    del model
    saver = Saver(
        run,
        engine,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        token="one",
        keep=1,
        keep_best=False,
        wait=True,
        before_commit=lambda: None,
        on_event=lambda event: None,
    )
    for step in range(STEPS):
        gc.collect()
        reset_peak()
        train_step(engine, case, config["vocab_size"])
        if case.saves and step == 0:
            saver.save(TrainState(step=1))
    peak = resident_bytes("VmHWM")
    engine.close()
    return peak


def train_step(engine: Engine, case: MemoryCase, vocab_size: int) -> None:
    """One step; workers that share matrices must have the same rows, the others may."""
    import torch

    targets = torch.tensor(float(case.spec.global_batch * (case.tokens - 1)))
    for _ in range(case.accumulation):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocab_size, (case.rows, case.tokens), generator=generator)
        engine.forward_backward({"input_ids": ids, "labels": ids}, targets)
        engine.update(1e-4)
