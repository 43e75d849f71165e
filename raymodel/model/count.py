"""Parameters and floating-point operations of a model, from its configuration alone.

Pure arithmetic over the fields of a Hugging Face configuration, so that a plan needs neither torch
nor a download. It covers the Llama family (llama, mistral, qwen2, qwen3) and BERT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raymodel.errors import SpecError

Head = Literal["causal_lm", "classification"]

# Where transformers' defaults differ from "hidden_size / num_attention_heads" and "no bias".
_LLAMA_LIKE: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"head_dim": 128, "qk_norm": True},
}

COUNTED = (*_LLAMA_LIKE, "bert")
"""The `model_type`s that there are formulas for."""


@dataclass(frozen=True, kw_only=True)
class ModelCount:
    """What a model holds and what a token costs."""

    parameters: int
    """All parameters; tied ones once."""
    multiplied: int
    """Weights that each token is multiplied with: all matrices, the output head included (tied or
    not), without the embeddings, which are looked up."""
    attention_width: int
    """Sum over the layers of heads x head size: what makes attention grow with the context."""

    def forward_flops_per_token(self, sequence_length: int) -> float:
        """A multiplication and an addition for each weight, and the two products of attention.

        2N + 4·L·H·Q·T as in PaLM (arXiv:2204.02311, appendix B): L layers, H heads of size Q, over
        a context of T tokens. Like there, causal attention counts in full, though half of it is
        masked; norms, activations and softmax are left out.
        """
        return 2.0 * self.multiplied + 4.0 * self.attention_width * sequence_length

    def train_flops_per_token(self, sequence_length: int) -> float:
        """Forward and backward: 6N + 12·L·H·Q·T. The backward pass costs twice the forward one
        (arXiv:2001.08361, section 2.1; arXiv:2203.15556, appendix F); recomputation is not counted,
        so a utilisation from this is MFU, not HFU."""
        return 3.0 * self.forward_flops_per_token(sequence_length)


def count_model(
    architecture: str, config: Mapping[str, Any], *, head: Head = "causal_lm", num_labels: int = 2
) -> ModelCount:
    """Counts for a `model_type` and its configuration fields (`vocab_size` among them).

    Raises:
        SpecError: no formula is known for the architecture.
    """
    fields = with_defaults(architecture, config)
    count = _count_bert if architecture == "bert" else _count_llama
    return count(fields, head, num_labels)


def can_count(architecture: str) -> bool:
    """Whether there are formulas for this `model_type`."""
    return architecture in COUNTED


def with_defaults(architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the architecture's defaults, and `q_width` and `kv_width`: heads x
    head size of the queries, and of the keys and values.

    Raises:
        SpecError: no formula is known for the architecture.
    """
    if architecture == "bert":
        width = config["hidden_size"]
        return {**config, "q_width": width, "kv_width": width}
    if architecture not in _LLAMA_LIKE:
        raise SpecError(
            f"parameters of {architecture!r} cannot be counted; there are formulas for "
            f"{', '.join(COUNTED)}"
        )
    fields = _LLAMA_LIKE[architecture] | dict(config)
    heads = fields["num_attention_heads"]
    head_dim = fields.get("head_dim") or fields["hidden_size"] // heads
    kv_heads = fields.get("num_key_value_heads") or heads
    return fields | {"q_width": heads * head_dim, "kv_width": kv_heads * head_dim}


def _count_llama(config: Mapping[str, Any], head: Head, num_labels: int) -> ModelCount:
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    q_width, kv_width = config["q_width"], config["kv_width"]
    head_dim = q_width // config["num_attention_heads"]

    attention = hidden * (2 * q_width + 2 * kv_width)
    mlp = 3 * hidden * config["intermediate_size"]  # gate, up, down
    vectors = 2 * hidden  # the two norms
    if config.get("qk_norm"):
        vectors += 2 * head_dim
    if config.get("qkv_bias") or config.get("attention_bias"):
        vectors += q_width + 2 * kv_width
    if config.get("attention_bias"):
        vectors += hidden
    if config.get("mlp_bias"):
        vectors += 2 * config["intermediate_size"] + hidden

    embedding = config["vocab_size"] * hidden
    output = embedding if head == "causal_lm" else num_labels * hidden
    is_tied = head == "causal_lm" and bool(config.get("tie_word_embeddings"))
    matrices = layers * (attention + mlp)
    return ModelCount(
        parameters=embedding
        + matrices
        + layers * vectors
        + hidden  # the last norm
        + (0 if is_tied else output),
        multiplied=matrices + output,
        attention_width=layers * q_width,
    )


def _count_bert(config: Mapping[str, Any], head: Head, num_labels: int) -> ModelCount:
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    inner, vocab = config["intermediate_size"], config["vocab_size"]
    positions = config.get("max_position_embeddings", 512)
    matrices = layers * (4 * hidden * hidden + 2 * hidden * inner)
    # Per layer: biases of query, key, value, output and both MLP matrices, and two layer norms.
    vectors = layers * (4 * hidden + inner + hidden + 4 * hidden)
    embeddings = (vocab + positions + config.get("type_vocab_size", 2)) * hidden + 2 * hidden
    if head == "classification":
        head_matrices = hidden * hidden + num_labels * hidden  # pooler, classifier
        head_parameters = head_matrices + hidden + num_labels
    else:
        # A dense layer with its norm, then the tied embedding with a bias of its own.
        head_matrices = hidden * hidden + vocab * hidden
        head_parameters = hidden * hidden + 3 * hidden + vocab
    return ModelCount(
        parameters=embeddings + matrices + vectors + head_parameters,
        multiplied=matrices + head_matrices,
        attention_width=layers * hidden,
    )
