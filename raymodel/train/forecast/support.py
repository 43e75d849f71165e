"""Which models can be trained in which way: a table, and the rules around it.

Asked by `raymodel check` where the job file says what the model is, when the job starts of a base
that it names, and by each worker once it has read that. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from raymodel.errors import SpecError
from raymodel.model.presets import OWN
from raymodel.tasks.spec import AnyTask
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec

# Architectures that train to the curve of plain data parallelism and whose checkpoints come back as
# whole models, with DeepSpeed's AutoTP and Ulysses: tests/train/test_train_parallel.py measures it.
_BOTH = ("gemma", "granite", "llama", "mistral", "phi", "qwen2", "qwen3", "smollm3")
TENSOR = (*_BOTH, "gemma2", "opt")
SEQUENCE = (*_BOTH, "olmo2", "phi3")
_WHY_NOT_TENSOR = {
    "gpt2": "AutoTP cannot cut its fused projections",
    "mixtral": "AutoTP cannot cut its experts",
    "olmo2": "AutoTP knows no cut for its plan",
    "phi3": "AutoTP cannot cut its fused projections",
    "t5": "AutoTP cannot put its parts together into a model again",
}
_READS_ANOTHER = "its decoder looks at all of another text, which is not cut"
_WHY_NOT_SEQUENCE = {
    "bart": _READS_ANOTHER,
    "bert": "it reads a text in both directions, under a mask that is not cut",
    "gemma2": "it bounds its attention scores, which the kernel for shared rows does not",
    "gpt2": "its attention does not pass on the positions",
    "gpt_neox": "its attention does not pass on the positions",
    "marian": _READS_ANOTHER,
    "mt5": _READS_ANOTHER,
    "opt": "its attention does not pass on the positions",
    "t5": _READS_ANOTHER,
}


class Trained(NamedTuple):
    """What is trained, as far as it is known."""

    architecture: str
    config: Mapping[str, Any]
    """Fields of the Hugging Face configuration."""
    cuts_rows: bool
    """Whether the task can compute its loss from parts of a row."""
    row_tokens: int | None
    """Tokens of the longest row; None when it is not known yet."""
    keep_apart: tuple[str, ...] = ()
    """The architectures with which the task keeps documents of a row apart."""


def check_support(spec: TrainSpec, model: Trained) -> None:
    """Raises SpecError, with the first reason, when a model cannot be trained as the spec says."""
    for field, reason in find_unsupported(spec, model):
        raise SpecError(f"{field} is {_value(spec, field)}: {reason}")


def find_unsupported(spec: TrainSpec, model: Trained) -> Iterator[tuple[str, str]]:
    """Field below the stage, and why its value cannot work with this model."""
    if model.architecture == OWN:
        yield from _own_problems(spec)
    if spec.parallel.tensor > 1:
        for reason in _tensor_problems(spec, model):
            yield "parallel.tensor", reason
    if spec.parallel.sequence > 1:
        for reason in _sequence_problems(spec, model):
            yield "parallel.sequence", reason
    if isinstance(spec, PretrainSpec):  # examples are padded where they cannot share a row
        yield from _document_problems(spec.objective, model)


def _own_problems(spec: TrainSpec) -> Iterator[tuple[str, str]]:
    """Of a module of the user's own, whose inside nobody else knows."""
    if spec.attention != "sdpa":
        yield "attention", "a module of your own attends as it is written; leave it out"
    if spec.activation_checkpointing:
        yield (
            "activation_checkpointing",
            "it is not known where a module of your own may be cut; call torch.utils.checkpoint in "
            "its forward, or leave it out",
        )


def _tensor_problems(spec: TrainSpec, model: Trained) -> Iterator[str]:
    architecture, workers = model.architecture, spec.parallel.tensor
    if architecture not in TENSOR:
        why = _WHY_NOT_TENSOR.get(architecture, "tensor parallelism is not tried with it")
        yield (
            f"{architecture} cannot share its matrices ({why}); tensor takes {', '.join(TENSOR)}. "
            "Use zero: 3, which spreads the weights of any model"
        )
        return
    heads, kv_heads = _heads(model.config) or (workers, workers)  # not known: taken to fit

    def fits(tensor: int) -> bool:
        return heads % tensor == 0 and kv_heads % tensor == 0

    if not fits(workers):
        yield (
            f"{workers} workers cannot share {heads} heads with {kv_heads} of keys and values "
            f"evenly; use tensor: {_nearest(workers, fits)}"
        )
    if spec.parallel.zero == 0 and spec.precision != "fp32":
        # FP16_UnfusedOptimizer counts only tensor rank 0 of the matrices that workers share.
        yield (
            f"at zero: 0 in {spec.precision} DeepSpeed clips by the gradient of a part of each "
            "shared matrix; use zero: 1, which needs less memory too"
        )
    if _has_adapter(spec):
        yield "an adapter is not cut with the matrices it updates; use zero: 3"


def _sequence_problems(spec: TrainSpec, model: Trained) -> Iterator[str]:
    architecture, workers = model.architecture, spec.parallel.sequence
    if architecture not in SEQUENCE:
        why = _WHY_NOT_SEQUENCE.get(architecture, "sequence parallelism is not tried with it")
        yield (
            f"{architecture} cannot share rows ({why}); sequence takes {', '.join(SEQUENCE)}. Use "
            "activation_checkpointing and a smaller micro_batch to fit long rows"
        )
        return
    if not model.cuts_rows:
        yield "the task needs whole rows; sequence is for causal_lm. Use a smaller micro_batch"
    tensor = spec.parallel.tensor
    known = _heads(model.config) or (workers * tensor, workers * tensor)  # not: taken to fit
    heads, kv_heads = (max(1, number // tensor) for number in known)

    def fits(sequence: int) -> bool:
        return heads % sequence == 0 and (kv_heads % sequence == 0 or sequence % kv_heads == 0)

    if not fits(workers):
        yield (
            f"{workers} workers cannot exchange {heads} heads with {kv_heads} of keys and values "
            f"evenly; use sequence: {_nearest(workers, fits)}"
        )
    if _has_adapter(spec):
        yield "rows are not shared under an adapter; use a smaller micro_batch"
    if spec.attention != "sdpa":
        yield (
            f"it does not go with attention: {spec.attention}; use sdpa, which for these rows "
            "without a mask is FlashAttention on a GPU too"
        )
    window = _window(model.config)
    if window is not None and (model.row_tokens or 0) > window:
        yield (
            f"the model looks back over {window} tokens only, rows have {model.row_tokens}, and "
            f"that limit is lost where rows are shared; use rows of at most {window} tokens"
        )


def _document_problems(objective: AnyTask, model: Trained) -> Iterator[tuple[str, str]]:
    asks = not getattr(objective, "cross_documents", True)
    if not asks or model.architecture in model.keep_apart:
        return
    yield (
        "objective.cross_documents",
        f"{model.architecture} is not known to keep the documents of a row apart, as "
        f"{', '.join(model.keep_apart)} do; take one of these, or let them see each other with "
        f"objective: {{name: {objective.name}, cross_documents: true}}",
    )


def _has_adapter(spec: TrainSpec) -> bool:
    return isinstance(spec, FinetuneSpec) and spec.adapter is not None


def _heads(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Heads of queries, and of keys and values; None where the job leaves them to the library.

    What is no number of heads is refused with the configuration itself.
    """
    heads = config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    if not (_is_count(heads) and _is_count(kv_heads)):
        return None
    return heads, kv_heads


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _window(config: Mapping[str, Any]) -> int | None:
    """Tokens that a position looks back over at most, where a model has such a limit."""
    if config.get("use_sliding_window") is False:
        return None
    window = config.get("sliding_window")
    return window if _is_count(window) else None


def _nearest(workers: int, fits: Callable[[int], bool]) -> int:
    """The largest smaller number of workers that fits."""
    return next(number for number in range(workers, 0, -1) if fits(number))


def _value(spec: TrainSpec, field: str) -> Any:
    value: Any = spec
    for name in field.split("."):
        value = getattr(value, name)
    return value
