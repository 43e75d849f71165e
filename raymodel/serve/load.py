"""From a model folder to a service: which task, which dtype, which class answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from raymodel.errors import ArtifactError
from raymodel.serve.spec import ServeSpec
from raymodel.storage.artifact import Artifact
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from raymodel.serve.service import Service

# End of a Hugging Face architecture's name → task.
_TASK_BY_ARCHITECTURE = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForSequenceClassification": "text_classification",
}


def get_services() -> Mapping[str, type[Service]]:
    """Task name → the class that serves it: the one place that knows. Loads torch."""
    from raymodel.serve.classification import ClassificationService
    from raymodel.serve.generation import GenerationService

    return MappingProxyType(
        {"causal_lm": GenerationService, "text_classification": ClassificationService}
    )


def model_location(model: Artifact | Location) -> Location:
    """The Hugging Face folder: `model/` of an artifact, or a plain folder itself."""
    return model.location / "model" if isinstance(model, Artifact) else model


def find_task(model: Artifact | Location) -> str:
    """The task that a model was made for: from its manifest, else from its architecture.

    Raises:
        ArtifactError: not a model folder, or no service for its task.
    """
    config_file = model_location(model) / "config.json"
    if not config_file.exists():
        raise ArtifactError(
            f"{config_file} does not exist; a model is a Hugging Face folder with config.json, "
            "model.safetensors and a tokenizer. Set serve.model to such a folder or an artifact"
        )
    task = model.content.get("task") if isinstance(model, Artifact) else None
    architectures = config_file.read_json().get("architectures") or []
    if task is None:
        task = _task_of_architecture(architectures)
    if task not in get_services():
        raise ArtifactError(
            f"{config_file.parent} is a model for {task or architectures or 'no known task'}; "
            f"what can be served is {', '.join(get_services())}. Set serve.model to another model"
        )
    return str(task)


def _task_of_architecture(architectures: list[str]) -> str | None:
    for ending, task in _TASK_BY_ARCHITECTURE.items():
        if any(name.endswith(ending) for name in architectures):
            return task
    return None


def load_service(
    folder: Path, task: str, *, name: str, spec: ServeSpec, wants_gpu: bool = False
) -> Service:
    """Loads the model and tokenizer of a local folder; no code and no pickle from it is run.

    Args:
        wants_gpu: a model that finds no GPU is served all the same, as a slow path.

    Raises:
        ArtifactError: the folder does not hold what it should.
    """
    import transformers
    from safetensors import SafetensorError

    from raymodel.model.kernels import find_device, note_attention, note_tokenizer

    auto_class = getattr(transformers, get_task(task).auto_class)
    device = find_device(wants_gpu)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        model = auto_class.from_pretrained(
            folder, dtype=serving_dtype(config, device), use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"the model in {folder} cannot be loaded ({error}); it must hold config.json, "
            "safetensors weights and a tokenizer. Export it again"
        ) from error
    note_attention(model)
    note_tokenizer(tokenizer)
    return get_services()[task](model.to(device), tokenizer, name=name, spec=spec)


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
