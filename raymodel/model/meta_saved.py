"""What autograd saves of a model that runs on the meta device, by layer.

Where a device decides which kernel runs, what the kernel of the device that is planned for keeps is
put in the place of what the meta device would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers.modeling_layers import GradientCheckpointingLayer

from raymodel.model.activations import Activations

Forward = Callable[[int], torch.Tensor]
"""Runs a model on a batch of so many rows; gives its output."""


def count_saved(model: nn.Module, forward: Forward, *, on_gpu: bool) -> Activations:
    """Bytes that a row keeps for its backward pass, and apart from them those that rows share.

    Args:
        model: on the meta device.
        forward: runs it.
        on_gpu: whose kernels are meant.
    """
    # Not of one row, of which other tensors than of several are contiguous as they are.
    two, three = (_kept(model, forward, rows, on_gpu=on_gpu) for rows in (2, 3))
    each = {
        name: getattr(three, name) - getattr(two, name)
        for name in ("layers", "layer", "layer_inputs", "working", "ends", "logits")
    }
    kept = two.layers + two.ends
    return Activations(**each, once=max(0.0, kept - 2 * (each["layers"] + each["ends"])))


def _kept(model: nn.Module, forward: Forward, rows: int, *, on_gpu: bool) -> Activations:
    """What a batch of so many rows keeps."""
    saved = _Saved.beside(model)
    with saved.watching(model), _Kernels(on_gpu):
        output = forward(rows)
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
    inputs: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    """Of what goes into a layer; held too."""
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
                    self.inputs[storage._cdata] = storage
                    self.widest = max(self.widest, storage.nbytes() + 4 * tensor.numel())

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.layer = None

    def activations(self, output: torch.Tensor) -> Activations:
        """Their sums. Of a model without layers that can be recomputed, all stays."""
        inside = [index for index, (layer, _) in enumerate(self.by_layer) if layer is not None]
        end = inside[-1] + 1 if inside else len(self.by_layer)
        sizes: dict[int | None, int] = {}
        for layer, size in self.by_layer[:end]:
            sizes[layer] = sizes.get(layer, 0) + size
        before = sizes.pop(None, 0)
        kept = before + sum(sizes.values())
        largest = max((size for _, size in self.by_layer[:end]), default=0)
        return Activations(
            layers=kept,
            layer=max(sizes.values(), default=0),
            layer_inputs=before + sum(s.nbytes() for s in self.inputs.values()) if sizes else kept,
            # Of a gated function: gradients of the product, of its two factors and of the gate.
            # Beside them those of the hidden state, in fp32 in a norm.
            working=4 * largest + 2 * self.widest,
            ends=sum(size for _, size in self.by_layer[end:]),
            logits=output.numel() * output.element_size(),
        )


# ---- the kernels of a device ---------------------------------------------------------------------


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
