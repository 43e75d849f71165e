"""What a training stage will be: size, steps, layout, memory, time. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from raymodel.cluster.devices import Fleet
from raymodel.cluster.spec import ClusterSpec
from raymodel.model.counted import Shape
from raymodel.observe.text import gib_text
from raymodel.train.forecast.fit import Choice, Room, changes_text, find_fitting, list_savings
from raymodel.train.forecast.memory import FP32, MemoryPlan, Setup, count_moments, plan_memory
from raymodel.train.plan import TrainPlan
from raymodel.train.spec import TrainSpec

ASSUMED_MFU = 0.4
"""Share of a device's peak that training reaches: what well-tuned runs of a billion parameters and
more report (PaLM 46 %, arXiv:2204.02311, table 3; Llama 3 38 to 43 %, arXiv:2407.21783, table 4).
Small models and slow networks stay far below it."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One training stage on a given number of workers."""

    shape: Shape
    setup: Setup
    plan: TrainPlan | None
    """None where the number of rows is not known yet."""
    row_tokens: int
    memory: MemoryPlan
    seconds: float | None
    """None where no peak rate is known."""
    teacher: Shape | None = None
    """What is learnt from besides the data."""

    @property
    def flops_per_token(self) -> float:
        return flops_with_teacher(self.shape, self.teacher, self.row_tokens)

    @property
    def checkpoint_bytes(self) -> int:
        """fp32 weight and moments of each trained parameter."""
        return FP32 * (self.shape.trained + count_moments(self.shape, self.setup))


def forecast(
    spec: TrainSpec,
    shape: Shape,
    *,
    plan: TrainPlan | None,
    row_tokens: int,
    workers: int,
    on_gpu: bool,
    fleet: Fleet | None,
    teacher: Shape | None = None,
) -> Forecast:
    """Puts the arithmetic of a stage together.

    Args:
        spec: the stage's.
        shape: the model.
        plan: its steps, where the data is known.
        row_tokens: tokens of the longest row.
        workers: how many train.
        on_gpu: whether each has a GPU.
        fleet: the machines to plan for, if any were named.
        teacher: what is learnt from besides the data.
    """
    setup = Setup.of(spec, workers, on_gpu=on_gpu, teacher=teacher, row_tokens=row_tokens)
    return Forecast(
        shape=shape,
        setup=setup,
        plan=plan,
        row_tokens=row_tokens,
        memory=plan_memory(shape, setup, row_tokens=row_tokens),
        seconds=_seconds(shape, setup, plan, fleet, teacher),
        teacher=teacher,
    )


def flops_with_teacher(shape: Shape, teacher: Shape | None, row_tokens: int) -> float:
    """Of a token: forward and backward of what is trained, and forward of its teacher, which is a
    third of that."""
    own = shape.train_flops_per_token(row_tokens)
    return own if teacher is None else own + teacher.train_flops_per_token(row_tokens) / 3


def _seconds(
    shape: Shape,
    setup: Setup,
    plan: TrainPlan | None,
    fleet: Fleet | None,
    teacher: Shape | None,
) -> float | None:
    if plan is None or fleet is None or fleet.device is None or setup.precision == "fp32":
        return None
    text_tokens = plan.tokens_per_row / setup.row_texts
    flops = plan.total_tokens * flops_with_teacher(shape, teacher, round(text_tokens))
    if setup.activation_checkpointing:  # the forward pass, a third of the arithmetic, is done twice
        flops += plan.total_tokens * shape.train_flops_per_token(round(text_tokens)) / 3
    return flops / (fleet.device.bf16_flops_per_s * ASSUMED_MFU * setup.workers)


# ---- does it fit ---------------------------------------------------------------------------------


def find_problem(stage: str, f: Forecast, cluster: ClusterSpec, fleet: Fleet) -> str | None:
    """Why a stage cannot run on these machines, with the nearest layout that can."""
    setup = f.setup
    if fleet.device is None and cluster.gpus_per_worker:
        return f"{stage}: cluster.gpus_per_worker is 1, and {fleet} have no GPU; name a device"
    if fleet.device is not None and setup.workers > fleet.devices:
        return (
            f"{stage}: {setup.workers} workers need a GPU each, {fleet} are {fleet.devices}; "
            f"lower the number of workers to {fleet.devices}, or plan for more machines"
        )
    replica = setup.tensor * setup.sequence
    if fleet.per_node and fleet.per_node % replica:
        return (
            f"{stage}: tensor × sequence is {setup.tensor} × {setup.sequence}, which must divide "
            f"the {fleet.per_node} GPUs of a machine: such workers exchange activations in every "
            "layer. Lower one of the two"
        )
    if _fits(fleet, f.memory, setup):
        return None
    return _does_not_fit(stage, f, fleet)


def _fits(fleet: Fleet, memory: MemoryPlan, setup: Setup) -> bool:
    return memory.peak.total <= fleet.usable_bytes(setup.workers)


def _does_not_fit(stage: str, f: Forecast, fleet: Fleet) -> str:
    per_node = fleet.per_node or -(-f.setup.workers // fleet.nodes)
    room = Room(max_workers=per_node * fleet.nodes, workers_per_node=per_node)
    search = partial(find_fitting, f.shape, f.setup, row_tokens=f.row_tokens, room=room)
    found = search(fits=partial(_fits, fleet))
    saved = list_savings(f.shape, f.setup, row_tokens=f.row_tokens, room=room)
    each = "; ".join(f"{changes_text(changes)} saves {gib_text(size)}" for changes, size in saved)
    usable = gib_text(fleet.usable_bytes(f.setup.workers))
    return (
        f"{stage} does not fit: a worker needs {gib_text(f.memory.peak.total)} at its peak "
        f"({f.memory.peak.name}), and {usable} can be used on {fleet}. {_nearest(found)}"
        + (f" Each knob alone: {each}" if each else "")
    )


def _nearest(found: Choice | None) -> str:
    if found is None:
        return "No layout on these machines fits: plan for more or larger ones, or a smaller model."
    return (
        f"The nearest layout that fits is {changes_text(found.changes)} "
        f"({gib_text(found.memory.peak.total)})."
    )
