"""A model: its outline, fresh from a spec or from a folder; or whole, to be used."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from raymodel.errors import ArtifactError, SpecError
from raymodel.model.bfloat16 import speed_up_bf16
from raymodel.model.presets import resolve_model
from raymodel.model.spec import ModelSpec
from raymodel.model.stored import StoredWeights
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.tasks.base import Task

# Accepted by transformers and folded into other fields, so that they are no fields themselves.
_LEGACY_FIELDS = ("rope_theta", "rope_scaling")


def build_model(
    spec: ModelSpec,
    task: Task,
    *,
    vocab_size: int,
    max_positions: int,
    pad_token_id: int | None,
    eos_token_id: int | None,
) -> PreTrainedModel:
    """A fresh model on the meta device, in training mode: `materialise` gives it its weights.

    Raises:
        SpecError: an unknown architecture or configuration field, values that do not fit together,
            or a model that cannot do the task.
    """
    architecture, fields = resolve_model(spec)
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": max_positions}
    for name, needed in sizes.items():
        if fields.get(name, needed) < needed:
            raise SpecError(
                f"model.config.{name} is {fields[name]}, but the data needs {needed}; "
                "leave it out, or give at least that"
            )
    special = {
        "pad_token_id": pad_token_id,
        "eos_token_id": eos_token_id,
        # Prompts start without a special token; the default of 1 would be an ordinary token here.
        "bos_token_id": None,
    }
    config = build_config(architecture, sizes | special | fields | task.model_arguments())
    try:
        task.check_model(config)
    except ValueError as error:
        raise SpecError(str(error)) from error
    return _outline(config, task)


def _outline(config: PretrainedConfig, task: Task) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = _auto_class(task).from_config(config, dtype=torch.float32)
    model.train()
    return model


def build_config(architecture: str, fields: dict[str, Any]) -> PretrainedConfig:
    """The Hugging Face configuration; transformers itself would silently keep unknown fields.

    Raises:
        SpecError: an unknown architecture or field, or values that do not fit together.
    """
    try:
        default = transformers.AutoConfig.for_model(architecture)
    except ValueError as error:
        names = transformers.models.auto.configuration_auto.CONFIG_MAPPING.keys()
        raise SpecError(
            f"there is no architecture {architecture!r} in transformers "
            f"{transformers.__version__}{_nearest(architecture, names)}"
        ) from error
    known = {*default.to_dict(), *default.attribute_map, *_LEGACY_FIELDS, "num_labels"}
    for name in fields:
        if name not in known:
            raise SpecError(
                f"model.config.{name} is no field of a {architecture} configuration"
                f"{_nearest(name, known)}"
            )
    try:
        return transformers.AutoConfig.for_model(architecture, **fields)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise SpecError(f"model.config: {' '.join(str(error).split())}") from error


def load_model(folder: str | Path, task: Task) -> PreTrainedModel:
    """The model of a local Hugging Face folder, on the CPU, in its own format, to be used.

    Nothing is downloaded, no code of the folder runs, and only safetensors are read.

    Raises:
        ArtifactError: no model folder, unreadable or missing weights, or not fit for the task.
    """
    folder = Path(folder)
    config = _read_config(folder, task)
    speed_up_bf16()
    try:
        model: PreTrainedModel
        model, found = _auto_class(task).from_pretrained(
            folder,
            config=config,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_LOCAL_ONLY,
        )
    except _LOAD_ERRORS as error:
        raise _cannot_load(folder, task, error) from error
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    _check_complete(folder, model, missing)
    model.train(False)
    return model


def open_model(folder: Location, task: Task) -> tuple[PreTrainedModel, StoredWeights]:
    """The model of a Hugging Face folder on the meta device, to be trained, and its weights.

    Neither a disk's nor a bucket's folder is read beyond the headers of its weights. A head that
    it lacks, or has for other labels, is missing from the weights.

    Raises:
        ArtifactError: no model folder, damaged weights, or not fit for the task.
    """
    with local_folder(folder, without=".safetensors") as local:
        config = _read_config(local, task)
        if getattr(config, "quantization_config", None) is not None:
            raise ArtifactError(
                f"{folder} holds quantised weights, and training needs those that they were made "
                "from; start from that model"
            )
        try:
            model = _outline(config, task)
            if model.can_generate():
                model.generation_config = _generation_config(local)
        except _LOAD_ERRORS as error:
            raise _cannot_load(folder, task, error) from error
    stored = StoredWeights(folder, model)
    head = [key for key in stored.missing if _may_be_new(model, key)]
    _check_complete(folder, model, set(stored.missing) - set(head))
    return model, stored


def _read_config(folder: Path, task: Task) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} is not a model folder: it has no config.json; give a Hugging Face folder "
            "with config.json, model.safetensors and a tokenizer"
        )
    arguments = task.model_arguments() if task.labels else {}
    try:
        config: PretrainedConfig = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **arguments
        )
        task.check_model(config)
    except _LOAD_ERRORS as error:
        raise _cannot_load(folder, task, error) from error
    return config


def _generation_config(folder: Path) -> transformers.GenerationConfig:
    """As `from_pretrained` finds it: of its own file, or of old fields of the configuration."""
    if (folder / "generation_config.json").is_file():
        return transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return transformers.GenerationConfig.from_pretrained(
        folder, config_file_name="config.json", _from_model_config=True, local_files_only=True
    )


_LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)
_LOCAL_ONLY = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}


def _cannot_load(folder: Path | Location, task: Task, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{folder} cannot be loaded as {task.auto_class}: {str(error).splitlines()[0]} "
        "(its config.json must name an architecture for this task, and its weights must be "
        "complete safetensors)"
    )


def _may_be_new(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight belongs to the head, or to the pooler before it."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _check_complete(folder: Path | Location, model: PreTrainedModel, missing: set[str]) -> None:
    if missing:
        example = ", ".join(sorted(missing)[:3])
        raise ArtifactError(
            f"{folder} lacks {len(missing)} weights of a {type(model).__name__} ({example}); "
            "the folder holds another kind of model: choose one that fits the task"
        )


def read_labels(folder: str | Path) -> tuple[str, ...]:
    """The label names in a model folder's configuration, in the order of their numbers."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    names = config.get("id2label", {})
    return tuple(names[key] for key in sorted(names, key=int))


def _auto_class(task: Task) -> Any:
    return getattr(transformers, task.auto_class)


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
