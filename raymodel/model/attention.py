"""Attention of documents that lie in one row and do not see each other.

transformers would compute it from a mask of all positions by all others, which costs more than
without one. Attention grows with the square of the length, so document by document it costs less,
and is exact: on a GPU in one kernel for documents of any lengths (torch's FlashAttention), else in
one for all of a length.

Shapes: B rows, H heads (G of keys and values), T tokens, D sizes of a head; N documents of L
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch.nn.attention import varlen
from torch.nn.functional import dropout, scaled_dot_product_attention

from raymodel.model.positions import positions_before
from raymodel.observe.slow_paths import take_slow_path

# By the attention that a job asks for: what the model's configuration calls the same with documents
# apart, a name of its own, for which transformers makes no mask; and whether by plain matrices.
_KERNELS = {"sdpa": ("documents_sdpa", False), "eager": ("documents_eager", True)}


def attention_alone(attention: str | None) -> str | None:
    """What the configuration called a model's attention before its documents were kept apart."""
    return next((name for name, (own, _) in _KERNELS.items() if own == attention), attention)


def keep_documents_apart(model: Any, attention: str | None = None) -> Any:
    """Lets a model of transformers compute the documents of a row as if each were alone.

    Args:
        model: changed in place; one that `tasks/documents.py` names.
        attention: as the job says, `sdpa`, `flash` or `eager`; None where the model has its
            attention already.

    Returns:
        What undoes the change of positions, by its `remove`; None where there is none.
    """
    if attention in _KERNELS:
        name, in_matrices = _KERNELS[attention]
        attend = partial(attend_documents, in_matrices=in_matrices)
        transformers.AttentionInterface.register(name, attend)
        model.set_attn_implementation(name)
    config = model.config
    before = positions_before(config.model_type, config.pad_token_id)
    if not before:
        return None

    def shift(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if named.get("position_ids") is not None:
            named = named | {"position_ids": named["position_ids"] + before}
        return arguments, named

    # Of what is inside: an adapter calls the outer model's `forward` past its hooks.
    return model.base_model.register_forward_pre_hook(shift, with_kwargs=True)


@contextmanager
def documents_apart(model: Any) -> Iterator[None]:
    """For a while: a model that is to answer too, in batches that need masks."""
    before = model.config.get_text_config()._attn_implementation
    hook = keep_documents_apart(model, "eager" if before == "eager" else "sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        if hook is not None:
            hook.remove()


def attend_documents(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    in_matrices: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls its attention functions.

    Args:
        query: (B, H, T, D); keys and values (B, G, T, D).
        cu_seq_lens_q: where each document begins in the rows one after the other, and where the
            last one ends. (N + 1,) int32
        sliding_window: positions that a token looks back over, itself included; to both sides
            where the model is not causal.
        softcap: bound of the scores.
        in_matrices: compute plain matrices.

    Returns:
        (B, T, H, D), and None for the weights.
    """
    assert cu_seq_lens_q is not None, "a batch without documents"
    assert attention_mask is None, "documents that are kept apart need no mask"
    rules = _Rules(
        is_causal=bool(getattr(module, "is_causal", True) if is_causal is None else is_causal),
        window=sliding_window,
        softcap=softcap,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        in_matrices=in_matrices or softcap is not None,
    )
    # The rows one after the other. (B·T, H, D)
    q, k, v = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    reason = _why_not_at_once(query, value, rules)
    if reason is None:
        out = _attend_at_once(q, k, v, cu_seq_lens_q, query.shape[2], rules)
    else:
        if query.is_cuda and not in_matrices:
            take_slow_path("computes attention length by length", reason, inherent=True)
        out = _attend_by_length(q, k, v, cu_seq_lens_q, rules)
    return out.view(len(query), query.shape[2], *out.shape[1:]), None


@dataclass(frozen=True, kw_only=True)
class _Rules:
    """What a layer's attention is besides its inputs."""

    is_causal: bool
    window: int | None
    softcap: float | None
    scaling: float
    dropout: float
    in_matrices: bool

    def mask(self, length: int, device: torch.device) -> torch.Tensor | None:
        """Which keys (columns) each position of a document sees (L, L); None where that needs no
        mask."""
        window = length if self.window is None else self.window
        if window >= length and not (self.is_causal and self.in_matrices):
            return None
        place_L = torch.arange(length, device=device)
        back_LL = place_L[:, None] - place_L
        seen_LL = back_LL >= 0 if self.is_causal else torch.ones_like(back_LL, dtype=torch.bool)
        return seen_LL & (back_LL.abs() < window)


def _why_not_at_once(query: torch.Tensor, value: torch.Tensor, rules: _Rules) -> str | None:
    """Why one kernel cannot take documents of all lengths; None where it can."""
    size = query.shape[-1]
    if not query.is_cuda:
        return "there is no GPU"
    if query.dtype not in (torch.bfloat16, torch.float16):
        return f"FlashAttention computes in bf16 and fp16, and this is {query.dtype}"
    if rules.in_matrices:
        return "FlashAttention computes no plain matrices, and no bounded scores"
    if rules.dropout:
        return "torch's FlashAttention for lengths that vary has no dropout; set it to 0"
    if size % 8 or size > _MOST_HEAD_SIZE or size != value.shape[-1]:
        return f"FlashAttention takes heads of 8, 16, … {_MOST_HEAD_SIZE} numbers, not of {size}"
    if not hasattr(varlen, "varlen_attn"):
        return f"torch {torch.__version__} has no attention for lengths that vary"
    return None


_MOST_HEAD_SIZE = 256


def _attend_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    rules: _Rules,
) -> torch.Tensor:
    """(B·T, H, D), by torch's FlashAttention for documents of any lengths.

    Args:
        longest: tokens that no document has more of.
    """
    back = -1 if rules.window is None else rules.window - 1
    out = varlen.varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=rules.scaling,
        window_size=(back, 0 if rules.is_causal else back),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, torch.Tensor), "more was not asked for"
    return out


# The lengths are numbers for Python, of which a compiler would make a program for each.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    rules: _Rules,
) -> torch.Tensor:
    """(B·T, H, D), all documents of one length at once: of short ones there are many, and to call
    a kernel costs more than what it computes. On a GPU it waits for the bounds."""
    lengths = bounds.diff()
    attend = _in_matrices if rules.in_matrices else _in_a_kernel
    sizes, counts = torch.unique(lengths, return_counts=True)
    inputs, order = [query, key, value], None
    if len(sizes) == len(lengths):  # each has a length of its own
        sizes, counts = lengths, torch.ones_like(lengths)
    else:
        order = lengths.repeat_interleave(lengths).argsort(stable=True)
        inputs = [each.index_select(0, order) for each in inputs]
    shapes = list(zip(counts.tolist(), sizes.tolist(), strict=True))
    # torch's annotations of `split` are missing.
    parts: Any = (torch.split(each, [n * length for n, length in shapes]) for each in inputs)
    out = torch.cat(
        [
            attend(*(each.unflatten(0, shape).transpose(1, 2) for each in (q, k, v)), rules=rules)
            for shape, q, k, v in zip(shapes, *parts, strict=True)
        ]
    )
    return out if order is None else out.index_select(0, order.argsort())


def _in_a_kernel(
    q_NHLD: torch.Tensor, k_NGLD: torch.Tensor, v_NGLD: torch.Tensor, *, rules: _Rules
) -> torch.Tensor:
    """(N·L, H, D), of N documents of L tokens."""
    mask = rules.mask(q_NHLD.shape[2], q_NHLD.device)
    out_NHLD = scaled_dot_product_attention(
        q_NHLD,
        k_NGLD,
        v_NGLD,
        attn_mask=mask,
        dropout_p=rules.dropout,
        is_causal=rules.is_causal and mask is None,
        scale=rules.scaling,
        enable_gqa=q_NHLD.shape[1] != k_NGLD.shape[1],
    )
    return out_NHLD.transpose(1, 2).flatten(0, 1)


def _in_matrices(
    q_NHLD: torch.Tensor, k_NGLD: torch.Tensor, v_NGLD: torch.Tensor, *, rules: _Rules
) -> torch.Tensor:
    """(N·L, H, D), of N documents of L tokens."""
    heads_by_group = q_NHLD.shape[1] // k_NGLD.shape[1]
    k_NHLD, v_NHLD = (each.repeat_interleave(heads_by_group, 1) for each in (k_NGLD, v_NGLD))
    scores_NHLL = q_NHLD @ k_NHLD.transpose(2, 3) * rules.scaling
    if rules.softcap is not None:
        scores_NHLL = torch.tanh(scores_NHLL / rules.softcap) * rules.softcap
    mask_LL = rules.mask(q_NHLD.shape[2], q_NHLD.device)
    if mask_LL is not None:
        scores_NHLL = scores_NHLL.masked_fill(~mask_LL, float("-inf"))
    weights_NHLL = scores_NHLL.softmax(-1, dtype=torch.float32).to(q_NHLD.dtype)
    weights_NHLL = dropout(weights_NHLL, rules.dropout)
    return (weights_NHLL @ v_NHLD).transpose(1, 2).flatten(0, 1)
