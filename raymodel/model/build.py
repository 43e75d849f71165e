"""A model in memory: fresh from a spec, or from a folder."""

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
from raymodel.model.precision import cast_parameters
from raymodel.model.presets import resolve_model
from raymodel.model.spec import ModelSpec

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
    seed: int,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """A fresh model on the CPU, in training mode.

    The weights are a function of the configuration and `seed` alone, so every rank builds the same
    model; they are drawn in fp32 and then cast, so `dtype` only rounds them.

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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = _auto_class(task).from_config(config, dtype=torch.float32)
    cast_parameters(model, dtype).train()
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


def load_model(
    folder: str | Path, task: Task, dtype: torch.dtype | None = None, *, seed: int | None = None
) -> PreTrainedModel:
    """The model of a local Hugging Face folder, on the CPU, in evaluation mode.

    Nothing is downloaded, no code of the folder runs, and only safetensors are read.

    Args:
        dtype: Cast to this; by default the folder's own.
        seed: With a seed, a head that the folder lacks (or has for other labels) is drawn from it;
            without, every weight must be in the folder.

    Raises:
        ArtifactError: no model folder, unreadable or missing weights, or not fit for the task.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} is not a model folder: it has no config.json; give a Hugging Face folder "
            "with config.json, model.safetensors and a tokenizer"
        )
    arguments = task.model_arguments() if task.labels else {}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **arguments)
        task.check_model(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)
            model: PreTrainedModel
            model, found = _auto_class(task).from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **_LOCAL_ONLY,
            )
    except _LOAD_ERRORS as error:
        raise ArtifactError(
            f"{folder} cannot be loaded as {task.auto_class}: {str(error).splitlines()[0]} "
            "(its config.json must name an architecture for this task, and its weights must be "
            "complete safetensors)"
        ) from error
    _check_complete(folder, model, found, may_be_new=seed is not None)
    model.train(False)
    return model


_LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)
_LOCAL_ONLY = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}


def _check_complete(folder: Path, model: PreTrainedModel, found: Any, *, may_be_new: bool) -> None:
    """Weights outside the base model (the head, and the pooler before it) may be new; no others."""
    missing = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    base = f"{model.base_model_prefix}."
    wrong = {key for key in missing if key.startswith(base) and ".pooler." not in key}
    if not may_be_new:
        wrong = missing
    if wrong:
        example = ", ".join(sorted(wrong)[:3])
        raise ArtifactError(
            f"{folder} lacks {len(wrong)} weights of a {type(model).__name__} ({example}); "
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
