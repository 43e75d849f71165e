"""What a plan says of serving: how many requests at once, and how long texts may be.

It computes as a replica does that finds as much memory as there is here, or on the machines that
were named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raymodel.cluster.devices import Fleet
from raymodel.errors import ClusterError, RaymodelError
from raymodel.job.progress import Progress
from raymodel.job.spec import Job
from raymodel.job.stages import Stages
from raymodel.model.counted import Shape
from raymodel.model.gguf_header import FAMILIES
from raymodel.model.purpose import find_task
from raymodel.model.stored_numbers import NUMBER_BYTES, find_stored_numbers
from raymodel.observe.text import gib_text, many
from raymodel.serve.capacity import (
    CACHE_FRAC,
    WHOLE_TOKENS,
    CachePlan,
    find_draft_tokens,
    find_rows,
    key_value_bytes,
    longest_answer,
    plan_cache,
    unasked_answer,
)
from raymodel.serve.memory import available_memory_bytes
from raymodel.serve.room import openvino_bytes
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.train.base import BaseModel
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec

_SAVED_IN = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Precision of training → type of the weights that it leaves."""


@dataclass(frozen=True, kw_only=True)
class Offered:
    """A model that a job serves, as far as it is known."""

    task: str
    config: Mapping[str, Any]
    """Of its folder, or what the job says that it will be."""
    numbers: int
    """Of its weights."""
    dtype: str
    """It is saved in."""


def find_draft(stages: Stages) -> Offered | None:
    """What writes ahead of the model. Raises RaymodelError where it cannot be told from here."""
    draft = stages.draft()
    return None if draft is None else _offered(draft)


def find_offered(job: Job, stages: Stages, progress: Progress) -> Offered | None:
    """The model that lies there already: what `serve.model` names, or the newest of the job.

    Raises:
        RaymodelError: it cannot be told from here.
    """
    made = (progress.complete.get(name) for name in ("compress", "finetune", "pretrain"))
    newest = next((artifact for artifact in made if artifact is not None), None)
    is_last = newest is not None and newest.stage == _last_stage(job)
    model = stages.served(newest if is_last else None)
    return None if model is None else _offered(model)


def _offered(model: BaseModel) -> Offered | None:
    task = find_task(model.artifact or model.location)
    stored = find_stored_numbers(model.location, task)
    if stored is None:
        return None
    return Offered(
        task=task,
        config=(model.location / "config.json").read_json(),
        numbers=stored.fractions,
        dtype=stored.dtype,
    )


def trained_model(spec: TrainSpec, shape: Shape) -> Offered:
    """What a training stage will have made."""
    if isinstance(spec, FinetuneSpec):
        name = spec.task.name
    else:
        assert isinstance(spec, PretrainSpec), "there are two kinds of training"
        name = spec.objective.name
    return Offered(
        task=name,
        config={**shape.config, "model_type": shape.architecture},
        numbers=shape.trained + shape.frozen,
        dtype=_SAVED_IN[spec.precision],
    )


def _last_stage(job: Job) -> str | None:
    return next((name for name in ("compress", "finetune", "pretrain") if getattr(job, name)), None)


def served_lines(
    job: Job, offered: Offered, fleet: Fleet | None, draft: Offered | None = None
) -> Iterator[tuple[str, str]]:
    """What the plan tells, each with its name."""
    spec = job.serve
    assert spec is not None, "the caller looked"
    on_gpu = bool(job.cluster.gpus_per_worker or (fleet and fleet.device))
    device = "cuda" if on_gpu else "cpu"
    dtype = _dtype(offered, spec)
    held = _held_bytes(offered, spec)
    yield "weights", f"{gib_text(held)} in {dtype}"
    if get_task(offered.task).answers != "stream":
        yield "at once", f"{find_rows(spec, offered.task, device)} rows of a pass{_by(spec.batch)}"
        if get_task(offered.task).answers == "text":
            yield "answers", f"up to {spec.max_tokens or WHOLE_TOKENS} tokens"
        return
    config = _decoder_config(offered.config)
    if config is None:
        yield "at once", f"up to {find_rows(spec, offered.task, device)} requests{_by(spec.batch)}"
        return
    token_bytes = key_value_bytes(config, dtype)
    if draft is not None:
        yield "draft", _draft(spec, offered, draft)
        small = _decoder_config(draft.config)
        held += _held_bytes(draft, spec)
        token_bytes += 0 if small is None else key_value_bytes(small, _dtype(draft, spec))
    yield "cache", f"{token_bytes / 1024:.1f} KiB of keys and values a token"
    left, where = _left(job, fleet, on_gpu)
    if left is None:
        yield "at once", f"up to {find_rows(spec, offered.task, device)} requests, as memory allows"
        return
    beside = 0 if on_gpu else _beside(spec, offered, dtype)
    try:
        plan = plan_cache(
            left_bytes=int(left) - held - beside,
            token_bytes=token_bytes,
            context_tokens=config.max_position_embeddings,
            device=device,
            asked_rows=spec.batch,
            replicas=spec.replicas.max if fleet is None or not on_gpu else 1,
        )
    except ClusterError as error:
        yield "at once", f"none: {error} ({where})"
        return
    yield "at once", _at_once(plan, spec, where, CACHE_FRAC[device])
    yield "answers", _answers(plan, spec)


def _dtype(offered: Offered, spec: ServeSpec) -> str:
    return offered.dtype if spec.dtype == "auto" else spec.dtype


def _held_bytes(offered: Offered, spec: ServeSpec) -> int:
    return offered.numbers * NUMBER_BYTES[_dtype(offered, spec)]


def _draft(spec: ServeSpec, offered: Offered, draft: Offered) -> str:
    assert spec.draft is not None, "there is one"
    count = find_draft_tokens(spec.draft.tokens, draft.numbers, offered.numbers)
    return (
        f"{gib_text(_held_bytes(draft, spec))} in {_dtype(draft, spec)}; writes "
        f"{many(count, 'token')} ahead"
    )


def _at_once(plan: CachePlan, spec: ServeSpec, where: str, frac: float) -> str:
    room = f"{gib_text(plan.cache_bytes)}, at most {frac:.0%} of what the weights leave of {where}"
    return (
        f"{plan.rows} requests a replica{_by(spec.batch)}, of {plan.context_tokens:,} tokens at "
        f"most and {plan.cache_tokens:,} together ({room})"
    )


def _answers(plan: CachePlan, spec: ServeSpec) -> str:
    most = longest_answer(spec, plan.context_tokens)
    unasked = unasked_answer(spec, plan.context_tokens)
    return f"up to {most:,} tokens; {unasked:,} where a request names no limit"


def _by(written: int | None) -> str:
    return "" if written is None else " (serve.batch)"


class _Fields:
    """A configuration by attribute."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.num_hidden_layers = int(config["num_hidden_layers"])
        self.num_attention_heads = int(config["num_attention_heads"])
        self.num_key_value_heads = int(config.get("num_key_value_heads") or 0)
        self.hidden_size = int(config["hidden_size"])
        self.head_dim = config.get("head_dim")
        self.max_position_embeddings = int(config["max_position_embeddings"])


def _decoder_config(config: Mapping[str, Any]) -> _Fields | None:
    """None where it names its sizes in another way than the Llama family."""
    try:
        return _Fields(config)
    except (KeyError, TypeError):
        return None


def _beside(spec: ServeSpec, offered: Offered, dtype: str) -> int:
    """Of OpenVINO's process, where it may be taken."""
    is_torch = spec.engine == "transformers" or spec.draft is not None
    if is_torch or offered.config.get("model_type") not in FAMILIES:
        return 0
    return openvino_bytes(offered.numbers, dtype, spec.weights)


def _left(job: Job, fleet: Fleet | None, on_gpu: bool) -> tuple[float | None, str]:
    """Bytes of memory for one replica, and where they are."""
    if fleet is None:
        return (None, "") if on_gpu else (available_memory_bytes(), "this machine's memory")
    if fleet.device is None and fleet.host_bytes is None:
        return None, ""  # machines whose memory was not named
    return fleet.usable_bytes(1), str(fleet)


def served_text(
    job: Job, stages: Stages, progress: Progress, trained: Offered | None, fleet: Fleet | None
) -> tuple[tuple[str, str], ...]:
    """The lines of a plan; one that says why, where nothing is known.

    Args:
        trained: the model that the job is about to train; None without one that was planned.
    """
    try:
        offered = find_offered(job, stages, progress) or trained
    except RaymodelError as error:
        return (("model", f"cannot be told from here: {error}"),)
    if offered is None:
        return ()
    try:
        return tuple(served_lines(job, offered, fleet, find_draft(stages)))
    except RaymodelError as error:  # perhaps this job makes it
        untold = "draft", f"its share of the memory cannot be told from here: {error}"
        return (*served_lines(job, offered, fleet), untold)
