"""The DeepSpeed configuration that follows from a spec. Pure; unknown keys cannot slip through,
because every key is written here.

What decides a result is written though it is DeepSpeed's default: defaults change with versions."""

from __future__ import annotations

from typing import Any

from raymodel.train.forecast.buckets import BUCKET_ELEMENTS, LIVE_ELEMENTS
from raymodel.train.plan import BatchPlan, stage_to_run
from raymodel.train.spec import ParallelSpec, TrainSpec


def deepspeed_config(spec: TrainSpec, batch: BatchPlan, workers: int) -> dict[str, Any]:
    """The configuration for `deepspeed.initialize`.

    Args:
        workers: Of the whole group.

    `train_batch_size` is left out: DeepSpeed would count the whole world as data parallel, and the
    last micro batch of a step may be smaller than the others.
    """
    parallel = spec.parallel
    stage = stage_to_run(
        parallel.zero,
        workers=workers,
        precision=spec.precision,
        offload=parallel.offload == "cpu",
    )
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch.micro_batch,
        "gradient_accumulation_steps": batch.accumulation,
        # DeepSpeed's default is 1.0, not off.
        "gradient_clipping": 0.0 if guard_clips(spec, stage) else spec.optimizer.gradient_clip,
        "steps_per_print": 10**9,
        "zero_optimization": _zero(stage, parallel),
    }
    if spec.optimizer.name == "adamw":  # `optimizers.py` makes the others
        config["optimizer"] = _adamw(spec)
    if spec.parallel.tensor > 1:
        config["tensor_parallel"] = _tensor(spec.parallel.tensor)
    if spec.precision == "bf16":
        config["bf16"] = {
            "enabled": True,
            "check_grad_overflow": True,  # an update with a gradient not finite is left out
            "bf16_master_weights_and_grads": False,
        }
    if spec.precision == "fp16":
        # 2^16 is the starting scale of mixed-precision training (arXiv:1710.03740).
        config["fp16"] = {
            "enabled": True,
            "auto_cast": False,
            "loss_scale": 0,  # a dynamic one
            "initial_scale_power": 16,
            "loss_scale_window": 1000,
            "hysteresis": 2,
            "consecutive_hysteresis": False,
            "min_loss_scale": 1,
            "fp16_master_weights_and_grads": False,
        }
    return config


def guard_clips(spec: TrainSpec, stage: int) -> bool:
    """Whether `UpdateGuard` clips the gradient. At stage 0 in fp32 DeepSpeed does not tell its
    norm, and goes through the gradients one by one. Where workers share matrices, only DeepSpeed
    knows which of them are parts of one."""
    return stage == 0 and spec.precision == "fp32" and spec.parallel.tensor == 1


def _zero(stage: int, parallel: ParallelSpec) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if stage > 0:
        zero["reduce_bucket_size"] = BUCKET_ELEMENTS
    if stage in (1, 2):
        zero["reduce_scatter"] = True
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = BUCKET_ELEMENTS
        zero["stage3_max_live_parameters"] = LIVE_ELEMENTS
        zero["stage3_max_reuse_distance"] = BUCKET_ELEMENTS
    if parallel.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return zero


def _tensor(workers: int) -> dict[str, Any]:
    return {
        "autotp_size": workers,
        # A tied output head would be cut by the vocabulary, and the model return the logits of
        # this worker's part only: the task's own loss would be over a part of the classes.
        "vocab_parallel_lm_head": False,
    }


def _adamw(spec: TrainSpec) -> dict[str, Any]:
    n = spec.optimizer.numbers
    params: dict[str, Any] = {
        "lr": n["learning_rate"],
        "betas": list(n["betas"]),
        "eps": n["eps"],
        "weight_decay": n["weight_decay"],
        "adam_w_mode": True,
    }
    if spec.parallel.offload == "none":
        # Without `torch_adam`, "AdamW" compiles an extension at first use, on a CPU too; torch's
        # fused kernel is as fast there. Offload takes DeepSpeed's only, so it does compile one.
        params |= {"torch_adam": True, "fused": True, "amsgrad": False}
    else:
        params |= {"fp32_optimizer_states": True, "amsgrad": False}
    return {"type": "AdamW", "params": params}
