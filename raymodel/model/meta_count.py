"""Counts a model of any architecture by running it on the meta device, where nothing is computed.

Shapes go through the model as tensors would, so that torch itself says what is multiplied and what
autograd saves, in well under a second.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from raymodel.errors import NotPlannedError
from raymodel.model.build import first_line
from raymodel.model.counted import Counting, MetaCount, Row
from raymodel.model.groups import HIDDEN, is_in_a_layer, parameter_groups
from raymodel.model.meta_saved import count_saved

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Of models and their configurations: training fills no cache, and no layer is left out by chance.
_OFF = {"use_cache": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
_aten = torch.ops.aten


def count_on_meta(model: nn.Module, counting: Counting) -> MetaCount:
    """What a model holds, multiplies and keeps.

    Args:
        model: on the meta device, in training mode, with its adapter; it stays as it is.
        counting: which rows, and in what way they are trained.

    Raises:
        NotPlannedError: the model cannot run on the meta device, since what it does depends on the
            values of its inputs or weights, or it takes other arguments.
    """
    (_, longest), *_ = counting.rows
    with _only_shapes():
        model = _prepared(model, counting)
        return MetaCount(
            **_count_parameters(model),
            forward_flops=tuple((size, _flops(model, row)) for size, row in counting.rows),
            row_bytes=count_saved(
                model, lambda rows: _forward(model, longest, rows=rows), on_gpu=counting.on_gpu
            ),
        )


def count_forward_flops(model: nn.Module, row: Row) -> float:
    """Those of one row; `model` and the errors as in `count_on_meta`.

    The attention is computed as plain matrices, which multiply as much as a fused kernel, and which
    no library that was loaded to share rows between workers has put its own in the place of.
    """
    with _only_shapes():
        return _flops(_prepared(model, Counting(rows=((1, row),), attention="eager")), row)


def _prepared(model: nn.Module, counting: Counting) -> Any:
    outline: Any = copy.deepcopy(model).to(_DTYPES[counting.precision])
    for module in outline.modules():
        for holder in (module, getattr(module, "config", None)):
            for name in _OFF.keys() & getattr(holder, "__dict__", {}).keys():
                setattr(holder, name, _OFF[name])
    if counting.attention != "sdpa":  # which transformers takes by itself where a model can
        # FlashAttention, which needs a GPU, keeps what torch's fused kernel does.
        plain = counting.attention == "eager"
        _innermost(outline).set_attn_implementation("eager" if plain else "sdpa")
    return outline


@contextmanager
def _only_shapes() -> Iterator[None]:
    """What stops a model on the meta device becomes one error. The stream of chance that training
    draws from stays where it is."""
    try:
        with torch.random.fork_rng(devices=[]), _Answers():  # type: ignore[no-untyped-call]
            yield
    except Exception as error:  # a model's own code may end in anything
        raise NotPlannedError(
            f"it does not run without its values on torch's meta device: {first_line(error)}"
        ) from error


# ---- parameters ----------------------------------------------------------------------------------


def _count_parameters(model: nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    groups = parameter_groups(model, 0.0, apart=True)
    hidden = [p for group in groups if group.get(HIDDEN) for p in group["params"]]
    head = _output_head(model)
    is_own = head is not None and not any(
        isinstance(m, nn.Embedding) and m.weight is head for m in model.modules()
    )
    cut = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and is_in_a_layer(name)
    ]
    return {
        "trained": _numel(trained),
        "frozen": _numel(parameters) - _numel(trained),
        "buffer_bytes": sum(b.numel() * b.element_size() for b in model.buffers()),
        "largest": max(p.numel() for p in parameters),
        "hidden": _numel(hidden),
        "sides": sum(sum(p.shape) for p in trained),
        # AutoTP of DeepSpeed cuts these (deepspeed/module_inject/auto_tp.py).
        "cut": _numel(cut) + (head.numel() if head is not None and is_own else 0),
        "head": head.numel() if head is not None and head.requires_grad else 0,
    }


def _numel(tensors: list[Any]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _output_head(model: Any) -> nn.Parameter | None:
    """The matrix that makes logits over a vocabulary, where a model has one."""
    find = getattr(_innermost(model), "get_output_embeddings", None)
    weight = getattr(find() if find else None, "weight", None)
    return weight if isinstance(weight, nn.Parameter) else None


# ---- arithmetic ----------------------------------------------------------------------------------


def _flops(model: nn.Module, row: Row) -> float:
    """Attention goes as matrices, as the meta device computes it."""
    counter = FlopCounterMode(display=False, custom_mapping={_aten._grouped_mm: _grouped_flops})
    with counter, torch.no_grad():
        _forward(model, row, rows=1)
    return float(counter.get_total_flops())


def _grouped_flops(left: tuple[int, ...], right: tuple[int, ...], *_: Any, **__: Any) -> int:
    """The product of rows with the matrix of their expert, of which torch 2.13 has no count:
    (rows, inner) × (experts, inner, outputs)."""
    rows, inner = left
    return 2 * rows * inner * right[-1]


# ---- a forward pass on the meta device -----------------------------------------------------------


def _forward(model: nn.Module, row: Row, *, rows: int) -> torch.Tensor:
    """The logits, or what a model without a head gives first."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    types = {"ids": torch.long, "numbers": dtype}
    batch: dict[str, Any] = {
        name: torch.ones((rows, *each.shape), dtype=types[each.kind], device="meta")
        for name, each in row.items()
    }
    output: Any = model(**batch)
    logits: torch.Tensor = output.logits if hasattr(output, "logits") else output[0]
    if logits.ndim == 4:  # of places in an image: a loss is taken of its pixels, in fp32
        size = row["pixel_values"].shape[-2:]
        logits = nn.functional.interpolate(logits.float(), size=size, mode="bilinear")
    return logits


def _innermost(model: Any) -> Any:
    """The model of transformers below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Models ask whether a mask is true everywhere, to do without it: it is, in a full row."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        is_question = func is _aten._local_scalar_dense.default and args[0].is_meta
        if is_question and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))
