"""From a model folder to a service: which task, which dtype, which class answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raymodel.errors import ArtifactError, RaymodelError
from raymodel.model.stored_numbers import StoredNumbers, find_stored_numbers
from raymodel.serve.draft_rules import check_draft, other_tokenizer
from raymodel.serve.follow import Version
from raymodel.serve.memory import available_memory_bytes, free_bytes
from raymodel.serve.room import Need, check_room, find_need, with_draft
from raymodel.serve.spec import DtypeName, ServeSpec
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location
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
    folder: Location | Path,
    task_name: str,
    *,
    name: str,
    spec: ServeSpec,
    wants_gpu: bool = False,
    draft: Version | None = None,
) -> Service:
    """Loads the model and processor of a folder; no code and no pickle from it is run.

    Args:
        folder: on a disk or in a bucket.
        wants_gpu: a model that finds no GPU is served all the same, as a slow path.
        draft: what `spec.draft` names.

    Raises:
        ArtifactError: the folder does not hold what it should, or what it holds does not answer; or
            the draft cannot write ahead of it.
        SpecError: what `serve.engine` asks for cannot be had.
        ClusterError: the memory does not hold it.
    """
    from raymodel.model.kernels import find_device, note_attention, note_processor
    from raymodel.serve.probe import check_outputs

    location = folder if isinstance(folder, Location) else Location.parse(str(folder))
    device = find_device(wants_gpu)
    if draft is not None:
        check_draft(task_name, draft.task)
    _check_room(location, task_name, spec, device, draft)
    with local_folder(location) as local:
        model, task = _load(local, task_name, spec, device)
        note_attention(model)
        note_processor(task.processor)
        beside = (
            {} if draft is None else {"draft": (draft.name, _load_draft(draft, task, spec, device))}
        )
        service = service_of(task_name)(model, task, name=name, spec=spec, **beside)
        try:
            check_outputs(service, local)
            service.settle()
        except RaymodelError:
            service.close()
            raise

    def load_again() -> PreTrainedModel:
        with local_folder(location) as local:
            return _load(local, task_name, spec, device)[0]

    if not service.needs_model:
        # Frees the weights, which the engine has its own of.
        model.to("meta")  # type: ignore[arg-type]  # mistyped
        service.reload = load_again
    return service


def _load(
    folder: Path, task_name: str, spec: ServeSpec, device: str
) -> tuple[PreTrainedModel, Task]:
    from raymodel.model.compressed_linear import multiply_out
    from raymodel.model.load import load_for_use
    from raymodel.serve.probe import check_model

    model, task = load_for_use(folder, task_name)
    multiply_out(model)
    check_model(model, task, folder)
    dtype = serving_dtype(model.config, device, spec.dtype)
    model.to(device, dtype)  # type: ignore[arg-type]  # mistyped
    return model, task


def _load_draft(draft: Version, task: Task, spec: ServeSpec, device: str) -> PreTrainedModel:
    """The model of a draft, once it was seen to read as the served one does.

    Args:
        task: of the served one.
    """
    from raymodel.model.kernels import note_attention

    with local_folder(draft.location) as local:
        model, own = _load(local, draft.task, spec, device)
    difference = task.processor.find_difference(own.processor)
    if difference is not None:
        raise other_tokenizer(draft.location, difference)
    note_attention(model)
    return model


def _check_room(
    folder: Location, task_name: str, spec: ServeSpec, device: str, draft: Version | None
) -> None:
    """Raises ClusterError for a model that the memory cannot hold, with its draft."""
    stored = _find_stored(folder, task_name)
    if stored is None:
        return
    need = _find_need(stored, task_name, spec, device)
    beside = None if draft is None else _find_stored(draft.location, draft.task)
    if draft is not None and beside is not None:
        dtype = _served_in(stored.dtype, device, spec.dtype)
        held_bytes = stored.held_bytes(dtype) if device == "cpu" else 0
        need = with_draft(need, held_bytes, _find_need(beside, draft.task, spec, device))
    check_room(
        need,
        stored,
        left_bytes=available_memory_bytes(),
        device_left_bytes=0 if device == "cpu" else free_bytes(device),
    )


def _find_stored(folder: Location, task_name: str) -> StoredNumbers | None:
    """None of what is damaged or missing, which loading says in the words of all who load."""
    try:
        return find_stored_numbers(folder, task_name)
    except ArtifactError:
        return None


def _find_need(stored: StoredNumbers, task_name: str, spec: ServeSpec, device: str) -> Need:
    return find_need(
        stored,
        task_name,
        device=device,
        dtype=_served_in(stored.dtype, device, spec.dtype),
        engine=spec.engine,
        weights=spec.weights,
    )


def serving_dtype(config: PretrainedConfig, device: str, asked: DtypeName = "auto") -> torch.dtype:
    """The dtype that is asked for; else the one that the model was saved in, where `device`
    computes in it fast; else fp32."""
    import torch

    saved = getattr(config, "dtype", None) or torch.float32
    dtype: torch.dtype = getattr(
        torch, _served_in(str(saved).removeprefix("torch."), device, asked)
    )
    return dtype


def _served_in(saved: str, device: str, asked: DtypeName) -> str:
    from raymodel.model.kernels import has_fast_bf16
    from raymodel.observe.slow_paths import take_slow_path

    if asked != "auto":
        if asked == "bfloat16" and not has_fast_bf16(device):
            why = f"serve.dtype is {asked}, in which this {device} computes no faster"
            take_slow_path(f"computes in {asked}", why, inherent=True)
        return asked
    if saved == "bfloat16" and has_fast_bf16(device):
        return saved
    if saved == "float16" and device == "cuda":
        return saved
    if saved in ("bfloat16", "float16"):
        why = f"the model is saved in {saved}, in which this {device} computes no faster"
        take_slow_path("computes in float32", why, inherent=True)
    return "float32"
