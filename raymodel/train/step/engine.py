"""How one step is trained: the DeepSpeed engine behind three verbs.

`forward_backward` adds one micro batch, `step` updates, `forward` measures. The loop says when.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from raymodel.errors import SpecError
from raymodel.model.attention import keep_documents_apart
from raymodel.model.bfloat16 import speed_up_bf16
from raymodel.model.groups import parameter_groups
from raymodel.model.initial import Weights
from raymodel.model.kernels import has_fast_bf16, note_attention
from raymodel.model.materialise import materialise, stand_in
from raymodel.observe.slow_paths import take_slow_path
from raymodel.tasks.base import Task
from raymodel.train.distill.hidden import Hidden
from raymodel.train.distill.teacher import OpenTeacher, Teacher
from raymodel.train.layout import Layout
from raymodel.train.plan import BatchPlan, find_step_conflict
from raymodel.train.spec import TrainSpec
from raymodel.train.step import zero
from raymodel.train.step.batch_norm import StepNorms
from raymodel.train.step.deepspeed_config import deepspeed_config, guard_clips
from raymodel.train.step.norms import replace_batch_norms
from raymodel.train.step.sequence import share_rows
from raymodel.train.update.guard import UpdateGuard
from raymodel.train.update.optimizer_spec import OptimizerSpec
from raymodel.train.update.optimizers import FUSED, PARTITIONED, find_maker

COLLECTIVE_TIMEOUT_MIN = "30"  # as long as Ray's; DeepSpeed's own default is 10


def prepare_process(use_gpu: bool) -> None:
    """Settings that must be in place before DeepSpeed is imported in this process."""
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_TIMEOUT", COLLECTIVE_TIMEOUT_MIN)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def join_group(use_gpu: bool) -> None:
    """Joins the process group, through DeepSpeed so that its own communication knows it."""
    prepare_process(use_gpu)
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.WARNING)
    _leave_muon_uncompiled()
    if not use_gpu:
        # Its first use on a CPU compiles a shared-memory all-reduce for over half a minute, which
        # ZeRO training does not call.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if use_gpu else "gloo", verbose=False)


def _leave_muon_uncompiled() -> None:
    """DeepSpeed compares every optimizer with Muon, which no job names. Its module is compiled
    where it is defined, and that imports torch's compiler: two seconds of CPU in each worker.
    """
    from deepspeed.runtime import compiler

    compile_ = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    finally:
        compiler.compile = compile_


class Engine:
    """A model, its optimizer state and the arithmetic of one step."""

    def __init__(
        self,
        deepspeed_engine: Any,
        task: Task,
        batch: BatchPlan,
        layout: Layout,
        clip: float | None,
        teacher: Teacher | None = None,
    ) -> None:
        """Args:
        clip: The largest norm of a gradient; None where DeepSpeed clips.
        teacher: What the model learns from besides the targets.
        """
        self.deepspeed = deepspeed_engine
        self.task = task
        self.batch = batch
        self.layout = layout
        self.teacher = teacher
        self.device = torch.device(deepspeed_engine.device)
        self._norms = StepNorms(deepspeed_engine.module)
        optimizer = deepspeed_engine.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)
        self._guard = UpdateGuard(
            inner, inner is optimizer, asks_others=layout.tensor > 1, clip=clip
        )
        if layout.world_size == 1 and inner is optimizer:
            # It would copy all gradients into one tensor and back, for no other worker.
            deepspeed_engine.enable_backward_allreduce = False

    def forward_backward(
        self,
        micro_batch: Mapping[str, torch.Tensor],
        global_targets: torch.Tensor,
        *,
        is_blank: bool = False,
    ) -> torch.Tensor:
        """Adds one micro batch to the gradient of the step.

        Args:
            micro_batch: tensors of this worker's rows, on the CPU.
            global_targets: targets of the whole global batch, a scalar on the device.
            is_blank: whether its rows are none of the step's, and bear no loss; they do not count
                in the statistics of batch norm either.

        Returns:
            The *sum* of the loss over the targets that this worker speaks for, detached, on the
            device: added up over all workers it is that of the global batch.
        """
        self._norms.begin(is_blank=is_blank)
        loss_sum = self._loss_sum(micro_batch, self.teacher)
        # DeepSpeed averages gradients over all that hold the same weights; times their number
        # gives the sum, so that the gradient is that of the mean over the targets of the global
        # batch.
        loss = loss_sum * (self.layout.grad_workers / global_targets)
        self.deepspeed.backward(loss, scale_wrt_gas=False)
        return self._spoken_for(loss_sum)

    def update(self, learning_rate: float, leave_out: bool = False) -> None:
        """Ends one micro batch; DeepSpeed updates the weights when it was the step's last.

        Args:
            learning_rate: for this update.
            leave_out: drop the gradient and change nothing; the same on every rank.
        """
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self._guard.leave_out = leave_out
        self.deepspeed.step()
        self._norms.end(is_applied=not self.left_out_update)

    @property
    def left_out_update(self) -> bool:
        """Whether the last update did not happen, on demand or for a gradient not finite."""
        return self._guard.left_out or not self.deepspeed.was_step_applied()

    @torch.no_grad()
    def forward(self, micro_batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum of the task's own loss over the targets that this worker speaks for, without a
        gradient."""
        self.deepspeed.eval()
        try:
            return self._spoken_for(self._loss_sum(micro_batch))
        finally:
            self.deepspeed.train()

    def grad_norm(self) -> float | None:
        """Global norm of the last step's gradient before clipping."""
        norm = self._guard.grad_norm
        if norm is None:
            norm = self.deepspeed.get_global_grad_norm()
        return None if norm is None else float(norm)

    def close(self) -> None:
        if self.teacher is not None:
            self.teacher.close()
        self.deepspeed.destroy()

    def _loss_sum(
        self, micro_batch: Mapping[str, torch.Tensor], teacher: Teacher | None = None
    ) -> torch.Tensor:
        """Over this worker's part of the rows."""
        if self.layout.sequence > 1:
            micro_batch = self.task.sequence_part(
                micro_batch, self.layout.sequence_rank, self.layout.sequence
            )
        batch = self._to_device(micro_batch)
        if teacher is not None:
            return teacher.loss(self.deepspeed, batch)
        return self.task.loss(self.deepspeed, batch)

    def _spoken_for(self, loss_sum: torch.Tensor) -> torch.Tensor:
        # A product, so that one worker's NaN is every worker's.
        return loss_sum.detach() * self.layout.speaks_for_loss

    def _to_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def give_weights(
    network: torch.nn.Module, weights: Weights, spec: TrainSpec, batch: BatchPlan
) -> None:
    """Gives a network on the meta device its weights, as the layout of the workers keeps them.

    They are made in the format that is trained in, from which the optimizer takes its fp32 copy.
    Under ZeRO-3 a rank keeps its share of each before the next is made. Where tensor workers share
    matrices, they are only stood in for: `build_engine` fills each worker's parts. The process
    group must exist.
    """
    dtype = DTYPES[spec.precision]
    config = deepspeed_config(spec, batch, dist.get_world_size())
    if spec.parallel.tensor > 1:
        stand_in(network, weights, dtype, torch.device(_accelerator()))
    elif config["zero_optimization"]["stage"] == 3:
        settle = zero.partition_as_made(config)
        materialise(network, weights, dtype, settle=settle)
    else:
        materialise(network, weights, dtype, settle=_to_accelerator)
    for buffer in network.buffers():
        _to_accelerator(buffer)  # of a model that is sharded already, DeepSpeed moves nothing


def _to_accelerator(tensor: torch.Tensor) -> None:
    tensor.data = tensor.data.to(_accelerator())


def _accelerator() -> str:
    from deepspeed.accelerator import get_accelerator

    return str(get_accelerator().current_device_name())


def build_engine(
    model: torch.nn.Module,
    task: Task,
    spec: TrainSpec,
    batch: BatchPlan,
    weights: Weights | None = None,
    teacher: OpenTeacher | None = None,
) -> Engine:
    """Hands a model to DeepSpeed. The process group must exist (`join_group`).

    Args:
        weights: Of a model on the meta device; None where it has its own.
        teacher: Where the spec has one.

    Raises:
        SpecError: this machine cannot compute in the spec's precision, or the task or the model's
            batch norm cannot be trained as the spec says.
    """
    import deepspeed

    _check_precision(spec.precision)
    _check_step(task, spec, batch)
    if spec.precision == "bf16":
        speed_up_bf16()
    layout = Layout.of(spec.parallel, dist.get_rank(), dist.get_world_size())
    replace_batch_norms(model, spec, batch)
    filling: AbstractContextManager[None] = nullcontext()
    if weights is not None:
        give_weights(model, weights, spec, batch)
        if layout.tensor > 1:
            filling = zero.filled_when_cut(weights, DTYPES[spec.precision])
    _prepare_model(model, spec, layout, task)
    zero.let_partition(PARTITIONED)
    with filling:
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=find_maker(spec.optimizer),
            model_parameters=_groups(model, spec.optimizer),
            config=deepspeed_config(spec, batch, layout.world_size),
        )
    zero.undo_construction(engine)
    _note_optimizer(engine, spec)
    engine.train()
    if spec.compile:
        engine.compile()
    is_guards = guard_clips(spec, engine.zero_optimization_stage())
    clip = spec.optimizer.gradient_clip if is_guards else None
    asked = None if teacher is None else _place_teacher(teacher, task, spec, batch, engine.module)
    return Engine(engine, task, batch, layout, clip, asked)


def _place_teacher(
    teacher: OpenTeacher, task: Task, spec: TrainSpec, batch: BatchPlan, student: Any
) -> Teacher:
    """A teacher as the layout of the workers keeps weights: whole on each worker, and under ZeRO-3
    shared out."""
    assert spec.distill is not None, "it is the spec's"
    network: Any = teacher.outline
    give_weights(network, teacher.weights, spec, batch)
    layout = Layout.of(spec.parallel, dist.get_rank(), dist.get_world_size())
    without = {"activation_checkpointing": False}
    _prepare_model(network, spec.model_copy(update=without), layout, task)
    network.eval()
    config = deepspeed_config(spec, batch, layout.world_size)
    hidden = None if spec.distill.hidden is None else Hidden(student, network, task)
    if config["zero_optimization"]["stage"] < 3:
        return Teacher(network, task, spec.distill, hidden=hidden)
    engine = zero.shared_out(network, config)
    return Teacher(engine, task, spec.distill, engine.destroy, hidden)


def _groups(model: torch.nn.Module, optimizer: OptimizerSpec) -> list[dict[str, Any]]:
    decay = optimizer.numbers["weight_decay"]
    return parameter_groups(model, decay, apart=optimizer.name == "muon")


def _prepare_model(model: Any, spec: TrainSpec, layout: Layout, task: Task) -> None:
    """What is chosen before DeepSpeed takes the model apart. Models of transformers only."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if layout.sequence > 1:
        share_rows(inner, layout, keeps_apart=task.keeps_apart)
    elif spec.attention == "sdpa":  # which transformers takes by itself where a model can
        note_attention(inner)
    else:
        _check_attention(spec.attention)
        inner.set_attn_implementation(_ATTENTION[spec.attention])
    if task.keeps_apart:
        keep_documents_apart(inner, None if layout.sequence > 1 else spec.attention)
    if spec.activation_checkpointing:
        # The reentrant kind forgets gradients of frozen inputs, as an adapter has them.
        inner.gradient_checkpointing_enable({"use_reentrant": False})


_ATTENTION = {"flash": "flash_attention_2", "eager": "eager"}


def _check_attention(attention: str) -> None:
    if attention != "flash":
        return
    if importlib.util.find_spec("flash_attn") is None or not torch.cuda.is_available():
        raise SpecError(
            "attention is flash, which needs an NVIDIA GPU and the package flash-attn on every "
            "worker; install raymodel[gpu] there, or set attention: sdpa"
        )


def _check_precision(precision: str) -> None:
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator()
    fits = {"fp16": device.is_fp16_supported, "bf16": device.is_bf16_supported}
    if precision in fits and not fits[precision]():
        raise SpecError(
            f"precision is {precision}, in which this {device.device_name()} cannot compute; "
            f"set it to {'bf16 or ' if device.is_bf16_supported() else ''}fp32"
        )
    if precision == "bf16" and not has_fast_bf16(device.device_name().partition(":")[0]):
        take_slow_path(
            "computes products of bf16 in fp32",
            f"this {device.device_name()} has no instructions for them; precision: fp32 is faster",
            inherent=True,
        )


def _check_step(task: Task, spec: TrainSpec, batch: BatchPlan) -> None:
    is_alone = task.spec is None or not task.spec.sees_whole_step
    reason = None if is_alone else find_step_conflict(spec, batch)
    if reason is not None:
        raise SpecError(f"{task.name} holds each row against all others of its step, and {reason}")


def _note_optimizer(engine: Any, spec: TrainSpec) -> None:
    """Says when the update is not one kernel over many parameters, as `deepspeed_config` asks."""
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    name = type(optimizer).__name__
    is_fused = spec.parallel.offload == "cpu" and name == "DeepSpeedCPUAdam"
    if spec.optimizer.name in FUSED and not is_fused and not optimizer.defaults.get("fused"):
        take_slow_path(
            "updates parameter by parameter",
            f"DeepSpeed has built a {name} that is not fused",
        )
