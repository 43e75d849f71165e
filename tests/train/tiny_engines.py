"""Engines of a few hundred parameters in shapes that partition badly, and a few steps of training.

Used inside the ranks of `run_distributed`: one process trains many small cases one after the other.
"""

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from raymodel.data.order import slice_for
from raymodel.model.adapters import AdaptedWeights, attach_adapter
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.spec import AdapterSpec, LoraSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.tiny import build_tiny_llama, outline_tiny_llama
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import TrainState
from raymodel.train.layout import Layout
from raymodel.train.plan import cut, plan_batch
from raymodel.train.spec import PretrainSpec
from raymodel.train.step import zero
from raymodel.train.step.engine import Engine, build_engine, join_group

VOCAB, WIDTH, TOKENS = 61, 31, 33
GLOBAL_BATCH = 24  # 1, 2, 3 and 4 workers divide it


# At rates at which a step moves the loss about as far as one of AdamW, a percent, so that what
# rounding does to a gradient shows as much in the loss.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adam": {"name": "adam", "weight_decay": 0.1},
    "sgd": {"name": "sgd", "learning_rate": 0.03, "nesterov": True, "weight_decay": 0.01},
    "sgd without momentum": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0},
    "lion": {"name": "lion", "learning_rate": 1e-3, "weight_decay": 0.1},
    "adafactor": {"name": "adafactor"},
    "muon": {"name": "muon"},
}


@dataclass(frozen=True)
class Case:
    """One engine: everything but the number of workers."""

    zero: int
    precision: str = "fp32"
    model: str = "odd"
    dropout: float = 0.0
    micro_batch: int | None = None
    """Rows in one forward pass; None is a single pass a step."""
    loss_scale: float | None = None
    """The dynamic scale of fp16 to begin with; a huge one makes the first steps overflow."""
    tensor: int = 1
    sequence: int = 1
    optimizer: str = "adamw"
    """Of `OPTIMIZERS`."""

    def spec(self) -> PretrainSpec:
        return PretrainSpec.model_validate(
            {
                "model": {"preset": "llama-tiny"},  # not built: the test brings its own module
                "global_batch": GLOBAL_BATCH,
                "micro_batch": self.micro_batch,
                "duration": "100 steps",
                "precision": self.precision,
                "optimizer": OPTIMIZERS[self.optimizer],
                "parallel": {
                    "zero": self.zero,
                    "tensor": self.tensor,
                    "sequence": self.sequence,
                },
            }
        )


def join_tiny_group() -> None:
    """Joins the group, and lets DeepSpeed use fp16 where torch only emulates it."""
    warnings.simplefilter("ignore")  # of the libraries; pytest's filters do not reach here
    join_group(use_gpu=False)
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


class OddModel(nn.Module):
    """Tied embedding, frozen layer, two weight-decay groups, a scalar; no size divides evenly."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        self.up = nn.Linear(WIDTH, 47, bias=False)
        self.down = nn.Linear(47, WIDTH, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.gain = nn.Parameter(torch.ones(1))  # DeepSpeed refuses shape ()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embed.weight
        for module in (self.embed, self.frozen, self.up, self.down):
            nn.init.normal_(module.weight, std=0.1)

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        hidden = self.frozen(self.embed(input_ids))
        hidden = hidden + self.down(self.drop(torch.tanh(self.up(hidden))))
        return CausalLMOutput(logits=self.head(self.norm(hidden) * self.gain))


def build_module(case: Case) -> nn.Module:
    """The same on every rank."""
    if case.model == "lora":
        lora = AdapterSpec(lora=LoraSpec(rank=3, dropout=case.dropout))
        plain = outline_tiny_llama(vocab_size=VOCAB)
        adapted = attach_adapter(copy.deepcopy(plain), lora, get_task("causal_lm")())
        weights = AdaptedWeights(adapted, InitialWeights(plain, 0), seed=3)
        return materialise(adapted, weights, torch.float32)
    if case.model == "llama":
        return build_tiny_llama(vocab_size=VOCAB, intermediate_size=47)
    if case.model == "million":
        return build_tiny_llama(vocab_size=16_000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return OddModel(case.dropout)


@contextmanager
def engine_of(case: Case, *, perturbed: bool = False) -> Iterator[Engine]:
    """An engine in the process group of this rank.

    Args:
        perturbed: change every trained weight first, so that only a checkpoint can put it right.
    """
    module = build_module(case)
    if perturbed:
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
    layout = Layout.of(case.spec().parallel, dist.get_rank(), dist.get_world_size())
    batch = plan_batch(GLOBAL_BATCH, case.micro_batch, layout.data_world_size)
    engine = build_engine(module, get_task("causal_lm")(), case.spec(), batch)
    if case.loss_scale is not None:
        zero.restore_counters(
            engine.deepspeed,
            zero.counters(engine.deepspeed) | {"cur_scale": case.loss_scale},
            engine.batch.accumulation,
        )
    try:
        yield engine
    finally:
        engine.close()
        del engine, module
        gc.collect()


def train_steps(
    engine: Engine,
    steps: range,
    *,
    before_update: Callable[[], None] = lambda: None,
    learning_rate: float | None = None,
) -> list[float]:
    """Trains on rows that depend on the step alone; the global mean loss of each step.

    Args:
        learning_rate: of each update; by default the peak that the engine was built with.
    """
    losses, rate = [], learning_rate
    if rate is None:
        rate = engine.deepspeed.optimizer.param_groups[0]["lr"]
    for step in steps:
        rows, targets = rows_of(step)
        layout = engine.layout
        start, stop = slice_for(layout.data_rank, layout.data_world_size, GLOBAL_BATCH)
        own = {name: column[start:stop] for name, column in rows.items()}
        total = torch.zeros((), dtype=torch.float64)
        pieces = cut(stop - start, engine.batch.accumulation)
        for index, (first, last) in enumerate(pieces):
            micro_batch = {name: column[first:last] for name, column in own.items()}
            total += engine.forward_backward(micro_batch, torch.tensor(float(targets)))
            if index == len(pieces) - 1:
                before_update()
            engine.update(rate)
        dist.all_reduce(total)
        losses.append(float(total) / targets)
    return losses


def rows_of(step: int) -> tuple[dict[str, torch.Tensor], int]:
    """Each token is three times the one before, plus one. The number of targets differs by row, so
    that a mean of means would show."""
    draw = torch.Generator().manual_seed(step)
    tokens = [torch.randint(0, VOCAB, (GLOBAL_BATCH,), generator=draw)]
    while len(tokens) < TOKENS:
        tokens.append((3 * tokens[-1] + 1) % VOCAB)
    input_ids = torch.stack(tokens, dim=1)
    lengths = torch.randint(3, TOKENS + 1, (GLOBAL_BATCH, 1), generator=draw)
    labels = input_ids.masked_fill(torch.arange(TOKENS) >= lengths, -100)
    return {"input_ids": input_ids, "labels": labels}, int((labels[:, 1:] != -100).sum())


def saver_of(run: Location, engine: Engine, **options: object) -> Saver:
    """This rank's saver, with the defaults of a small test."""
    return Saver(
        run,
        engine,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        **{
            "token": "one",
            "keep": 2,
            "keep_best": False,
            "wait": False,
            "before_commit": lambda: None,
            "on_event": lambda event: None,
            **options,
        },
    )


def save_now(run: Location, engine: Engine, step: int, **options: object) -> None:
    """Writes a checkpoint and waits until it is committed."""
    saver = saver_of(run, engine, **options)
    saver.save(TrainState(step=step, tokens=step * 100, data_digest=f"{step:016x}"))
    saver.close()
    dist.barrier()
