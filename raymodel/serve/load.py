"""From a model folder to a service: which task, which dtype, which class answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raymodel.errors import RaymodelError
from raymodel.serve.spec import DtypeName, ServeSpec
from raymodel.tasks import get_task

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.serve.service import Service
    from raymodel.tasks.base import Task


def service_of(task: str) -> type[Service]:
    """The class that serves a task. Loads torch."""
    from raymodel.serve.generation import GenerationService
    from raymodel.serve.prediction import PredictionService

    return GenerationService if get_task(task).answers == "stream" else PredictionService


def load_service(
    folder: Path, task_name: str, *, name: str, spec: ServeSpec, wants_gpu: bool = False
) -> Service:
    """Loads the model and processor of a local folder; no code and no pickle from it is run.

    Args:
        wants_gpu: a model that finds no GPU is served all the same, as a slow path.

    Raises:
        ArtifactError: the folder does not hold what it should, or what it holds does not answer.
        SpecError: what `serve.engine` asks for cannot be had.
    """
    from raymodel.model.kernels import find_device, note_attention, note_processor
    from raymodel.model.load import load_for_use
    from raymodel.serve.probe import check_model, check_outputs

    device = find_device(wants_gpu)

    def load() -> tuple[PreTrainedModel, Task]:
        model, task = load_for_use(folder, task_name)
        check_model(model, task, folder)
        dtype = serving_dtype(model.config, device, spec.dtype)
        model.to(device, dtype)  # type: ignore[arg-type]  # mistyped
        return model, task

    model, task = load()
    note_attention(model)
    note_processor(task.processor)
    service = service_of(task_name)(model, task, name=name, spec=spec)
    try:
        check_outputs(service, folder)
        service.settle()
    except RaymodelError:
        service.close()
        raise
    if not service.needs_model:
        # Frees the weights, which the engine has its own of.
        model.to("meta")  # type: ignore[arg-type]  # mistyped
        service.reload = lambda: load()[0]
    return service


def serving_dtype(config: PretrainedConfig, device: str, asked: DtypeName = "auto") -> torch.dtype:
    """The dtype that is asked for; else the one that the model was saved in, where `device`
    computes in it fast; else fp32."""
    import torch

    from raymodel.model.kernels import has_fast_bf16
    from raymodel.observe.slow_paths import take_slow_path

    saved = getattr(config, "dtype", None) or torch.float32
    if asked != "auto":
        if asked == "bfloat16" and not has_fast_bf16(device):
            why = f"serve.dtype is {asked}, in which this {device} computes no faster"
            take_slow_path(f"computes in {asked}", why, inherent=True)
        return torch.float32 if asked == "float32" else torch.bfloat16
    if saved == torch.bfloat16 and has_fast_bf16(device):
        return torch.bfloat16
    if saved == torch.float16 and device == "cuda":
        return torch.float16
    if saved in (torch.bfloat16, torch.float16):
        name = str(saved).removeprefix("torch.")
        why = f"the model is saved in {name}, in which this {device} computes no faster"
        take_slow_path("computes in float32", why, inherent=True)
    return torch.float32
