"""What a forward pass keeps for the backward pass, in bytes for each token. Pure arithmetic.

Each term is a tensor that torch's autograd saves, counted from the modelling code of transformers;
a test compares the sum with what `torch.autograd.graph.saved_tensors_hooks` sees, byte for byte.
With selective recomputation the field counts the same way (arXiv:2205.05198, section 4).

Letters: b bytes of a number, h hidden size, q and kv widths of queries and of keys and values,
i intermediate size, a heads, T context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raymodel.model.shape import ModelShape

Attention = Literal["sdpa", "flash", "eager"]
_FP32 = 4
_INDEX = 8  # torch's integers


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes for one token on one worker."""

    layers: float
    """Kept by all layers."""
    layer: float
    """Kept by the one that keeps most."""
    layer_inputs: float
    """The hidden states between the layers: all that is kept with recomputation."""
    working: float
    """Gradients that are under way at a time inside one layer's backward pass."""
    ends: float
    """Kept outside the layers: the last norm, ids, the normaliser of the loss."""
    logits: float
    """The output; its gradient takes as much again."""
    once: float = 0.0
    """Bytes that all tokens of a batch share."""


def count_activations(
    shape: ModelShape,
    *,
    number_bytes: int,
    attention: Attention,
    context: int,
    tensor: int = 1,
    on_gpu: bool = True,
) -> Activations:
    """Bytes that one token costs.

    Args:
        shape: the model.
        number_bytes: 2 for bf16 and fp16, 4 for fp32.
        attention: the kernel; `eager` keeps the matrix of scores.
        context: tokens that a position attends to, for the scores.
        tensor: workers that share each matrix.
        on_gpu: on a CPU torch has no fused attention with dropout, and computes it in fp32.
    """
    c, b = shape.fields, number_bytes
    bert = shape.architecture == "bert"
    layer = (_bert_layer if bert else _llama_layer)(
        shape, b, attention=attention, context=context, tensor=tensor, on_gpu=on_gpu
    )
    hidden, inner = c["hidden_size"], c["intermediate_size"] / tensor
    # The last norm; or the norm after the embedding, and the state that the head reads.
    outside = 2 * b * hidden if bert else (_FP32 + 2 * b) * hidden + _FP32
    ends, logits = outside + 2 * _INDEX, 0.0  # ids twice, or with the targets of the loss
    if shape.head == "causal_lm":
        # The head may be cut by tensor parallelism, but its outputs are gathered: every worker
        # holds the logits of the whole vocabulary.
        ends, logits = ends + _FP32, float(b * c["vocab_size"])
    return Activations(
        layers=c["num_hidden_layers"] * layer,
        layer=layer,
        layer_inputs=float(c["num_hidden_layers"] * b * hidden),
        # The MLP's gradients: of the product, of its two factors and of the gate; or of the input
        # and output of the one function. Beside them that of the hidden state, in fp32 in a norm.
        working=(2 if bert else 4) * b * inner + (2 * b + 2 * _FP32) * hidden,
        ends=float(ends),
        logits=logits,
    )


def _llama_layer(
    shape: ModelShape, b: int, *, attention: Attention, context: int, tensor: int, on_gpu: bool
) -> float:
    c = shape.fields
    hidden = float(c["hidden_size"])
    inner, heads = c["intermediate_size"] / tensor, c["num_attention_heads"] / tensor
    q, kv = c["q_width"] / tensor, c["kv_width"] / tensor
    # Each norm keeps its input in fp32, the reciprocal root, the normalised state and its product
    # with the weight, which is the input of the matrices after it.
    norms = 2 * ((_FP32 + 2 * b) * hidden + _FP32)
    if c.get("qk_norm"):
        kv_heads = c.get("num_key_value_heads") or c["num_attention_heads"]
        norms += (_FP32 + b) * (q + kv) + _FP32 * (heads + kv_heads / tensor)
    mlp = 4 * b * inner  # the gate before and after SiLU, the other factor, the product
    if attention == "eager":
        # Query, key and value, the latter two repeated for each head, and the output; the scores in
        # fp32 out of the softmax, and cast for the product with the values.
        scores = _FP32 if b == _FP32 else _FP32 + b
        return float(norms + mlp + 4 * b * q + scores * heads * context)
    # Query, key and value, output; log-sums.
    return float(norms + mlp + b * (2 * q + 2 * kv) + _FP32 * heads)


def _bert_layer(
    shape: ModelShape, b: int, *, attention: Attention, context: int, tensor: int, on_gpu: bool
) -> float:
    c = shape.fields
    hidden, inner = c["hidden_size"], c["intermediate_size"] / tensor
    width, heads = c["q_width"] / tensor, c["num_attention_heads"] / tensor
    dropout = c.get("hidden_dropout_prob", 0.1) > 0
    # Inputs of the two norms with mean and deviation, inputs of query, key, value and of the MLP.
    kept = 2 * (b * hidden + 2 * b) + 2 * b * hidden + 2 * b * inner
    if dropout:  # a mask for each of the two: a byte an element on a GPU, a number on a CPU
        kept += 2 * (1 if on_gpu else b) * hidden
    drops_scores = c.get("attention_probs_dropout_prob", 0.1) > 0
    if attention != "eager" and (on_gpu or not drops_scores):
        return float(kept + 4 * b * width + _FP32 * heads)
    # Query, key and value, the output, and the scores before, in and after a dropout. The fused
    # kernel's stand-in on a CPU, which can drop scores, computes in fp32.
    number, matrices = (b if attention == "eager" else _FP32), (3 if drops_scores else 1)
    return float(kept + 3 * number * width + b * width + matrices * number * heads * context)
