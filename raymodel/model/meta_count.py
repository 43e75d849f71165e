"""Counts a model of any architecture by running it on the meta device, where nothing is computed.

Shapes go through the model as tensors would, so that torch itself says what is multiplied and what
autograd saves, in well under a second. Where a device decides which kernel runs, what the kernel of
the device that is planned for keeps is put in its place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer

from raymodel.errors import NotPlannedError
from raymodel.model.activations import Activations
from raymodel.model.build import first_line
from raymodel.model.counted import Counting, MetaCount, Row
from raymodel.model.groups import HIDDEN, is_in_a_layer, parameter_groups

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
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
            row_bytes=_row_bytes(model, longest, on_gpu=counting.on_gpu),
        )


def count_forward_flops(model: nn.Module, row: Row) -> float:
    """Those of one row; `model` and the errors as in `count_on_meta`.

    The attention is computed as plain matrices, which multiply as much as a fused kernel, and which
    no library that was loaded to share rows between workers has put its own in the place of.
    """
    with _only_shapes():
        return _flops(_prepared(model, Counting(rows=((1, row),), attention="eager")), row)


def _prepared(model: nn.Module, counting: Counting) -> Any:
    outline: Any = copy.deepcopy(model).to(DTYPES[counting.precision])
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


# ---- activations ---------------------------------------------------------------------------------


def _row_bytes(model: nn.Module, row: Row, *, on_gpu: bool) -> Activations:
    """What grows with the rows of a batch, and apart from it what all rows share."""
    # Not of one row, of which other tensors than of several are contiguous as they are.
    two, three = (_kept(model, row, rows=rows, on_gpu=on_gpu) for rows in (2, 3))
    each = {
        name: getattr(three, name) - getattr(two, name)
        for name in ("layers", "layer", "layer_inputs", "working", "ends", "logits")
    }
    kept = two.layers + two.ends
    return Activations(**each, once=max(0.0, kept - 2 * (each["layers"] + each["ends"])))


def _kept(model: nn.Module, row: Row, *, rows: int, on_gpu: bool) -> Activations:
    """What a batch of so many rows keeps."""
    saved = _Saved.beside(model)
    with ExitStack() as stack:
        stack.enter_context(saved.watching(model))
        stack.enter_context(_Kernels(on_gpu))
        output = _forward(model, row, rows=rows)
    return saved.activations(output)


@dataclass
class _Saved:
    """Storages that autograd saves, each once, in the order of the forward pass."""

    own: set[int]
    """Storages of the model itself."""
    seen: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    """Held, so that no address is used twice."""
    by_layer: list[tuple[int | None, int]] = field(default_factory=list)
    """(which layer saved it, None outside of all; bytes) of each storage."""
    inputs: dict[int, int] = field(default_factory=dict)
    """Storage → its bytes, of what goes into a layer."""
    widest: int = 0
    """Bytes of the largest of these, and of the same in fp32."""
    layer: int | None = None
    """That which is running."""
    num_layers: int = 0

    @classmethod
    def beside(cls, model: nn.Module) -> _Saved:
        tensors = (*model.parameters(), *model.buffers())
        return cls(own={tensor.untyped_storage()._cdata for tensor in tensors})

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Layers are those that transformers can recompute."""
        hooks = []
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                hooks.append(module.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own and storage._cdata not in self.seen:
            self.seen[storage._cdata] = storage
            self.by_layer.append((self.layer, storage.nbytes()))
        return tensor

    def _enter(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self.layer, self.num_layers = self.num_layers, self.num_layers + 1
        for value in (*args, *kwargs.values()):
            for tensor in value if isinstance(value, tuple | list) else (value,):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    self.inputs[storage._cdata] = storage.nbytes()
                    self.widest = max(self.widest, storage.nbytes() + 4 * tensor.numel())

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.layer = None

    def activations(self, output: torch.Tensor) -> Activations:
        """Their sums. Of a model without layers that can be recomputed, all stays."""
        outside = [index for index, (layer, _) in enumerate(self.by_layer) if layer is not None]
        end = outside[-1] + 1 if outside else len(self.by_layer)
        sizes: dict[int | None, int] = {}
        for layer, size in self.by_layer[:end]:
            sizes[layer] = sizes.get(layer, 0) + size
        before = sizes.pop(None, 0)
        kept = before + sum(sizes.values())
        largest = max((size for _, size in self.by_layer[:end]), default=0)
        return Activations(
            layers=kept,
            layer=max(sizes.values(), default=0),
            layer_inputs=before + sum(self.inputs.values()) if sizes else kept,
            # Of a gated function: gradients of the product, of its two factors and of the gate.
            # Beside them those of the hidden state, in fp32 in a norm.
            working=4 * largest + 2 * self.widest,
            ends=sum(size for _, size in self.by_layer[end:]),
            logits=output.numel() * output.element_size(),
        )


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


class _Kernels(TorchFunctionMode):
    """Puts what a device's own kernels keep in the place of what the meta device would."""

    def __init__(self, on_gpu: bool) -> None:
        super().__init__()
        self._on_gpu = on_gpu

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(func, *args, **kwargs)
        if func is F.dropout and self._on_gpu:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        func: Callable[..., Any],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        **more: Any,
    ) -> Any:
        """On a CPU torch has no fused attention that drops scores, or learns a bias of them
        (aten/src/ATen/native/transformers/sdp_utils_cpp.cpp)."""
        learns = attn_mask is not None and attn_mask.requires_grad
        if not self._on_gpu and (dropout_p > 0 or learns):
            return func(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, **more)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = attn_mask.to(query.dtype)  # it is added to the scores
        return _FusedAttention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]


def _dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """On a GPU its mask takes a byte an element, else a number."""
    return torch.native_dropout(input, p, training)[0] if training and p > 0 else input


class _FusedAttention(torch.autograd.Function):
    """Keeps what the fused kernels keep: no scores, but the logarithm of the sum of each row."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        # In memory as the query is, which decides whether putting the heads side by side copies.
        width = value.shape[-1]
        is_alike = value.shape[-1] == query.shape[-1]
        output = torch.empty_like(query) if is_alike else query.new_empty(*query.shape[:-1], width)
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, output, log_sums)
        return output
