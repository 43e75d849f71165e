"""Which runner computes the answers, and why."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from raymodel.errors import ArtifactError, SpecError
from raymodel.model.gguf import check_gguf, num_rows, rope_scaling
from raymodel.model.gguf_file import gguf_type
from raymodel.model.gguf_tokenizer import GgufTokenizer
from raymodel.model.openvino import LIBRARY, X86, find_precision
from raymodel.observe.slow_paths import take_slow_path
from raymodel.serve.capacity import CachePlan, key_value_bytes, plan_cache
from raymodel.serve.draft import DraftModel
from raymodel.serve.engine import Engine
from raymodel.serve.form import Grammars
from raymodel.serve.memory import available_memory_bytes
from raymodel.serve.room import openvino_bytes
from raymodel.serve.runner import Runner
from raymodel.serve.spec import EngineName, EngineWeights
from raymodel.serve.torch_runner import TorchRunner
from raymodel.storage.model_files import GGUF_FILE
from raymodel.tasks.boundaries import end_tokens

# OpenVINO GenAI has drafts too, and a check of its own ends it where a request samples. (2026.4)
_WITH_DRAFT = "beside a draft (serve.draft) it ends as soon as an answer's tokens are drawn"
_UNLIMITED_CONTEXT_TOKENS = 4096  # for models that state no limit


class Choice(NamedTuple):
    """An engine, and why this one."""

    engine: Engine
    reason: str


def build_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch: int | None,
    queue: int,
    asked: EngineName = "auto",
    weights: EngineWeights = "f16",
    replicas: int = 1,
    load: Callable[[], PreTrainedModel] | None = None,
    draft: DraftModel | None = None,
) -> Choice:
    """The engine of a causal language model.

    Args:
        model: in eval mode, on its device, in the dtype it is served in.
        batch: requests at the same time; None leaves it to the memory.
        queue: those that may wait.
        asked: what `serve.engine` says.
        weights: what `serve.weights` says.
        replicas: that may share this machine's memory.
        load: gives the model once more when its weights have been let go; by default it stays.
        draft: writes ahead of the model; `transformers` then computes.

    Raises:
        SpecError: what was asked for cannot be had here.
        ClusterError: the memory holds no keys and values.
        RaymodelError: what OpenVINO was asked for fails; see `OpenVinoRunner`.
    """
    load = load or (lambda: model)
    ends = end_tokens(model, tokenizer)
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    grammars = Grammars(tokenizer, vocab_size, ends)
    runner, reason = _build_runner(
        model, tokenizer, batch, asked, weights, replicas, load, grammars, draft
    )
    engine = Engine(runner, tokenizer, ends=ends, queue=queue)
    return Choice(engine, reason)


def _build_runner(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: int | None,
    asked: EngineName,
    weights: EngineWeights,
    replicas: int,
    load: Callable[[], PreTrainedModel],
    grammars: Grammars,
    draft: DraftModel | None,
) -> tuple[Runner, str]:
    context_tokens = find_context_tokens(model, tokenizer)
    own = gguf_type(model.config)
    if own is not None and weights not in (own, "f16"):
        raise SpecError(
            f"serve.weights is {weights}, and the model's are in {own} already; leave it out, or "
            "serve the model that they were made from"
        )
    obstacle = None
    if draft is not None:
        obstacle = _WITH_DRAFT
    elif asked != "transformers":
        obstacle = find_obstacle(model, tokenizer)
    if obstacle is None and asked == "auto" and platform.machine() not in X86:
        obstacle = f"on {platform.machine()} it has not been tried; ask for it: engine: openvino"
    file = Path(str(model.config.name_or_path)) / GGUF_FILE if own else None
    plan = None
    if asked != "transformers" and obstacle is None:
        plan = _plan_openvino(model, weights, file, context_tokens, batch, replicas)
        if plan is None:
            obstacle = "the memory does not hold it beside the model in torch"
            take_slow_path("answers without openvino", obstacle, inherent=True)
    if plan is not None:
        from raymodel.serve.beside_runner import BesideRunner
        from raymodel.serve.openvino_runner import OpenVinoRunner

        try:
            first = OpenVinoRunner(
                model,
                tokenizer,
                batch=plan.rows,
                context_tokens=plan.context_tokens,
                type=own or weights,
                cache_bytes=plan.budget_bytes,
                file=file,
            )
        except ArtifactError as error:
            if asked == "openvino" or weights != "f16" or own is not None:
                raise
            obstacle = str(error).partition("; set serve.engine")[0]
            take_slow_path("answers without openvino", obstacle)
        else:
            model_bytes = sum(weight.nbytes for weight in model.parameters())
            runner = BesideRunner(first, load, model_bytes, grammars, replicas)
            return runner, _asked_for(asked) or "it is the fastest on a CPU for this model"
    if asked == "openvino":
        raise SpecError(f"serve.engine is openvino, and {obstacle}; set serve.engine: auto")
    if weights != "f16":
        why = obstacle or "serve.engine is transformers"
        raise SpecError(
            f"serve.weights is {weights}, with which the engine openvino alone computes, and {why}"
            "; leave serve.weights out"
        )
    torch_runner = TorchRunner(
        model,
        batch=batch,
        context_tokens=context_tokens,
        grammars=grammars,
        replicas=replicas,
        draft=draft,
    )
    return torch_runner, _asked_for(asked) or f"openvino cannot: {obstacle}"


def _plan_openvino(
    model: PreTrainedModel,
    weights: EngineWeights,
    file: Path | None,
    context_tokens: int,
    batch: int | None,
    replicas: int,
) -> CachePlan | None:
    """What the memory holds beside OpenVINO's own weights; None where it does not hold those."""
    precision = find_precision(model.dtype)
    needed = openvino_bytes(
        sum(weight.numel() for weight in model.parameters()),
        precision,
        weights,
        gguf_bytes=None if file is None else file.stat().st_size,
    )
    left = available_memory_bytes()
    if needed > left:
        return None
    return plan_cache(
        left_bytes=left - needed,
        token_bytes=key_value_bytes(model.config, precision),
        context_tokens=context_tokens,
        device="cpu",
        asked_rows=batch,
        replicas=replicas,
    )


def _asked_for(asked: EngineName) -> str:
    return "" if asked == "auto" else f"serve.engine is {asked}"


def find_obstacle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why OpenVINO cannot run a model here; None when it can."""
    if model.device.type != "cpu":
        return f"the model is on a {model.device.type} device"
    try:
        check_gguf(model)
        GgufTokenizer(tokenizer, num_rows(model), frozenset())
    except ArtifactError as error:
        return _without_advice(error)
    if scaling := rope_scaling(model):
        return f"it does not scale rotary positions ({scaling})"  # which short trials do not show
    if importlib.util.find_spec(LIBRARY) is None:
        why = "openvino-genai is not installed; pip install openvino-genai"
        if platform.machine() in X86:
            take_slow_path("answers without openvino", why)
        return why
    if model.dtype not in (torch.float32, torch.bfloat16):
        return f"it is not run in {model.dtype} there"
    return None


def _without_advice(error: ArtifactError) -> str:
    return str(error).partition(". Export it")[0]


def find_context_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens of prompt and answer together; 4,096 for a model that states no limit."""
    config = model.config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None and tokenizer.model_max_length < 10**7:  # above it means "not known"
        limit = tokenizer.model_max_length
    return int(limit or _UNLIMITED_CONTEXT_TOKENS)
