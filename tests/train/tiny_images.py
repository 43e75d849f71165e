"""Image models of a few hundred parameters with batch norm, and engines that train them.

Used inside the ranks of `run_distributed`. A step has seven rows, which no number of workers but
one divides, and of which a third worker may get none.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from transformers import AutoModelForImageClassification, ResNetConfig
from transformers.modeling_outputs import ImageClassifierOutput

from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.train.checkpoint.buffers import persistent_buffers
from raymodel.train.plan import plan_batch
from raymodel.train.spec import PretrainSpec
from raymodel.train.step import zero
from raymodel.train.step.engine import Engine, build_engine

ROWS, CLASSES, SIDE = 7, 3, 8
CUTS = {1: ((0, 7),), 2: ((0, 5), (5, 7)), 3: ((0, 4), (4, 7), (7, 7))}
"""Workers → the rows of each; the last of three has none."""


class Net(nn.Module):
    """A norm over positions, one after it, and one over rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, bias=False)  # a bias would be taken off again by the norm
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, bias=False)
        self.block = nn.Sequential(nn.BatchNorm2d(6, momentum=None), nn.ReLU())
        self.pooled = nn.BatchNorm1d(6, momentum=0.3)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, pixel_values):
        x = torch.relu(self.norm(self.first(pixel_values)))
        x = self.pooled(self.block(self.second(x)).mean((2, 3)))
        return ImageClassifierOutput(logits=self.head(x))


def build_net() -> Net:
    """The same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net()


def outline_resnet(**options):
    """transformers' own, on the meta device."""
    config = ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=CLASSES,
        **options,
    )
    with torch.device("meta"):
        return AutoModelForImageClassification.from_config(config, dtype=torch.float32)


def build_resnet():
    outline = outline_resnet()
    return materialise(outline, InitialWeights(outline, seed=3), torch.float32)


def rows_of(step: int) -> dict[str, torch.Tensor]:
    """Seven images whose brightness follows from their class, and drifts from row to row."""
    draw = torch.Generator().manual_seed(step)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=draw)
    pixels = torch.randn((ROWS, 1, SIDE, SIDE), generator=draw)
    pixels += labels.view(-1, 1, 1, 1) + torch.arange(ROWS).view(-1, 1, 1, 1) / 2
    return {"pixel_values": pixels, "labels": labels}


def own_rows(step: int, rank: int, world_size: int) -> tuple[dict[str, torch.Tensor], bool]:
    """A worker's part of a step, and whether it is blank: one row that bears no loss."""
    rows = rows_of(step)
    start, stop = CUTS[world_size][rank]
    if start < stop:
        return {name: column[start:stop] for name, column in rows.items()}, False
    return {"pixel_values": rows["pixel_values"][:1], "labels": torch.full((1,), -100)}, True


class Images:
    """As much of a task as the engine asks for."""

    spec = None
    keeps_apart = False

    def loss(self, model, batch):
        pixels = batch["pixel_values"].to(next(model.parameters()).dtype)
        return loss_of(model(pixel_values=pixels).logits, batch["labels"])


def loss_of(logits, labels):
    return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def image_spec(stage: int = 1, precision: str = "fp32", **fields) -> PretrainSpec:
    return PretrainSpec.model_validate(
        {
            "model": {"preset": "llama-tiny"},  # not built: the test brings its own module
            "global_batch": ROWS,
            "duration": "100 steps",
            "precision": precision,
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.0},
            "parallel": {"zero": stage},
            **fields,
        }
    )


@contextmanager
def image_engine(spec: PretrainSpec, module: nn.Module | None = None) -> Iterator[Engine]:
    """An engine in the process group of this rank, of a `Net` unless told otherwise."""
    batch = plan_batch(ROWS, spec.micro_batch, dist.get_world_size())
    engine = build_engine(module or build_net(), Images(), spec, batch)
    if spec.precision == "fp16":
        # Of 2^16 the first steps overflow, and how many depends on the number of workers.
        known = zero.counters(engine.deepspeed) | {"cur_scale": 128.0}
        zero.restore_counters(engine.deepspeed, known, accumulation=1)
    try:
        yield engine
    finally:
        engine.close()
        del engine, module
        gc.collect()


def train_images(engine: Engine, steps: range, *, leave_out: bool = False) -> list[float]:
    """The global mean loss of each step."""
    losses = []
    for step in steps:
        own, is_blank = own_rows(step, dist.get_rank(), dist.get_world_size())
        total = engine.forward_backward(own, torch.tensor(float(ROWS)), is_blank=is_blank).double()
        engine.update(0.1, leave_out=leave_out)
        dist.all_reduce(total)
        losses.append(float(total) / ROWS)
    return losses


def buffers_of(engine: Engine) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in persistent_buffers(engine.deepspeed.module).items()}
