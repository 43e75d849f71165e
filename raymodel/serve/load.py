"""From a model folder to a service: which task, which dtype, which class answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from raymodel.serve.service import Service


def get_services() -> Mapping[str, type[Service]]:
    """Task name → the class that serves it: the one place that knows. Loads torch."""
    from raymodel.serve.classification import ClassificationService
    from raymodel.serve.generation import GenerationService

    return MappingProxyType(
        {"causal_lm": GenerationService, "text_classification": ClassificationService}
    )


def load_service(
    folder: Path, task: str, *, name: str, spec: ServeSpec, wants_gpu: bool = False
) -> Service:
    """Loads the model and tokenizer of a local folder; no code and no pickle from it is run.

    Args:
        wants_gpu: a model that finds no GPU is served all the same, as a slow path.

    Raises:
        ArtifactError: the folder does not hold what it should.
    """
    from raymodel.model.kernels import find_device, note_attention, note_tokenizer
    from raymodel.model.load import load_for_use

    device = find_device(wants_gpu)
    model, tokenizer = load_for_use(folder, get_task(task)())
    model.to(device, serving_dtype(model.config, device))  # type: ignore[arg-type]  # mistyped
    note_attention(model)
    note_tokenizer(tokenizer)
    return get_services()[task](model, tokenizer, name=name, spec=spec)


def serving_dtype(config: PretrainedConfig, device: str) -> torch.dtype:
    """The dtype that the model was saved in, where `device` computes in it fast; else fp32."""
    import torch

    from raymodel.model.kernels import has_fast_bf16
    from raymodel.observe.slow_paths import take_slow_path

    saved = getattr(config, "dtype", None) or torch.float32
    if saved == torch.bfloat16 and has_fast_bf16(device):
        return torch.bfloat16
    if saved == torch.float16 and device == "cuda":
        return torch.float16
    if saved in (torch.bfloat16, torch.float16):
        name = str(saved).removeprefix("torch.")
        why = f"the model is saved in {name}, in which this {device} computes no faster"
        take_slow_path("computes in float32", why, inherent=True)
    return torch.float32
