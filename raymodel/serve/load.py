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


def load_service(folder: Path, task: str, *, name: str, spec: ServeSpec) -> Service:
    """Loads the model and tokenizer of a local folder; no code and no pickle from it is run.

    Raises:
        ArtifactError: the folder does not hold what it should.
    """
    import torch

    from raymodel.model.load import load_for_use

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_for_use(folder, get_task(task)())
    model.to(device, serving_dtype(model.config, device))  # type: ignore[arg-type]  # mistyped
    return get_services()[task](model, tokenizer, name=name, spec=spec)


def serving_dtype(config: PretrainedConfig, device: str) -> torch.dtype:
    """The dtype that the model was saved in, where `device` computes in it fast; else fp32."""
    import torch

    saved = getattr(config, "dtype", None) or torch.float32
    if saved == torch.bfloat16 and _has_fast_bf16(device):
        return torch.bfloat16
    if saved == torch.float16 and device == "cuda":
        return torch.float16
    return torch.float32


def _has_fast_bf16(device: str) -> bool:
    """Whether bf16 is computed by the device itself; emulated it is slower than fp32."""
    import torch

    from raymodel.model.bfloat16 import has_fast_bf16

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_fast_bf16()
