"""What a model is made of, from its configuration alone: its matrices, and who holds which part.

Pure arithmetic, for the families that `count.py` covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raymodel.model.count import Head, ModelCount, count_model, with_defaults
from raymodel.model.spec import AdapterSpec

_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A low-rank adapter, as far as its size goes."""

    rank: int
    target: str | tuple[str, ...]

    @classmethod
    def of(cls, spec: AdapterSpec | None) -> Adapter | None:
        """None where all weights are trained."""
        return cls(rank=spec.lora.rank, target=spec.lora.target) if spec else None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Adapter:
        """The inverse of `dataclasses.asdict`, also after the data went through JSON."""
        target = data["target"]
        chosen = target if isinstance(target, str) else tuple(target)
        return cls(rank=data["rank"], target=chosen)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model to train: what `count.py` needs, and the adapter if only that is trained."""

    architecture: str
    config: Mapping[str, Any] = field(hash=False)
    """Fields of the Hugging Face configuration, `vocab_size` among them."""
    head: Head = "causal_lm"
    num_labels: int = 2
    adapter: Adapter | None = None

    @classmethod
    def of(
        cls,
        architecture: str,
        config: Mapping[str, Any],
        *,
        num_labels: int = 0,
        adapter: AdapterSpec | None = None,
    ) -> ModelShape:
        """The shape of a configuration, of which only the fields that matter here are kept.

        Args:
            architecture: its `model_type`.
            config: its fields, `vocab_size` among them.
            num_labels: of a classifier; 0 for a language model.
            adapter: what is trained instead of the weights.
        """
        return cls(
            architecture=architecture,
            config={name: config[name] for name in _FIELDS if config.get(name) is not None},
            head="classification" if num_labels else "causal_lm",
            num_labels=num_labels or 2,
            adapter=Adapter.of(adapter),
        )

    @property
    def count(self) -> ModelCount:
        return count_model(
            self.architecture, self.config, head=self.head, num_labels=self.num_labels
        )

    @property
    def fields(self) -> dict[str, Any]:
        """The configuration, with the defaults of the architecture where the arithmetic reads."""
        return with_defaults(self.architecture, self.config)

    @property
    def trained(self) -> int:
        """Parameters that training changes."""
        return self.count.parameters if self.adapter is None else self._adapter_parameters()

    def train_flops_per_token(self, row_tokens: int) -> float:
        """Forward and backward, in a row of so many tokens."""
        return self.count.train_flops_per_token(row_tokens)

    @property
    def buffer_bytes(self) -> int:
        """Of what a model holds that is no parameter: here a few hundred, which count as none."""
        return 0

    @property
    def frozen(self) -> int:
        """Parameters that are only read."""
        if self.adapter is None:
            return 0
        # A classification head is trained in full, on a copy that peft keeps beside the original.
        return self.count.parameters

    @property
    def output_parameters(self) -> int:
        """The output head's own matrix; 0 when it is the embedding."""
        c = self.config
        if self.head == "classification":
            return self.num_labels * int(c["hidden_size"])
        is_tied = bool(c.get("tie_word_embeddings")) or self.architecture == "bert"
        return 0 if is_tied else int(c["vocab_size"]) * int(c["hidden_size"])

    def head_gradient(self, tensor: int = 1) -> float:
        """Elements of the gradient of a language model's output head on one worker."""
        if self.head == "classification" or self.adapter is not None:
            return 0.0
        whole = int(self.config["vocab_size"]) * int(self.config["hidden_size"])
        return whole / tensor if self.output_parameters else whole

    @property
    def largest(self) -> int:
        """Elements of the largest parameter."""
        embedding = int(self.config["vocab_size"]) * int(self.config["hidden_size"])
        return max(embedding, *(rows * columns for rows, columns in self.matrices().values()))

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one layer by their module's name: (outputs, inputs)."""
        c = self.fields
        hidden, inner = c["hidden_size"], c["intermediate_size"]
        if self.architecture == "bert":
            return {
                "query": (hidden, hidden),
                "key": (hidden, hidden),
                "value": (hidden, hidden),
                "attention.output.dense": (hidden, hidden),
                "intermediate.dense": (inner, hidden),
                "output.dense": (hidden, inner),
            }
        q, kv = c["q_width"], c["kv_width"]
        return {
            "q_proj": (q, hidden),
            "k_proj": (kv, hidden),
            "v_proj": (kv, hidden),
            "o_proj": (hidden, q),
            "gate_proj": (inner, hidden),
            "up_proj": (inner, hidden),
            "down_proj": (hidden, inner),
        }

    @property
    def hidden(self) -> int:
        """Trained numbers in the matrices of hidden layers."""
        return sum(n * r * c for n, r, c in self._trained_in_layers())

    @property
    def sides(self) -> int:
        """Rows and columns of all trained matrices, and the numbers of all vectors."""
        fields, hidden = self.fields, int(self.config["hidden_size"])
        matrices = self._trained_in_layers()
        if self.output_parameters and (self.adapter is None or self.head == "classification"):
            matrices.append((1, self.output_parameters // hidden, hidden))
        if self.adapter is None:
            matrices.append((1, int(self.config["vocab_size"]), hidden))
            if self.architecture == "bert":
                looked_up = {"max_position_embeddings": 512, "type_vocab_size": 2}
                matrices += [(1, int(fields.get(n, d)), hidden) for n, d in looked_up.items()]
                matrices.append((1, hidden, hidden))  # of the pooler, or of the head that predicts
        if self.adapter is not None and self._adapts_head:
            matrices += [(1, self.adapter.rank, hidden), (1, hidden, self.adapter.rank)]
        vectors = self.trained - sum(n * r * c for n, r, c in matrices)
        return sum(n * (r + c) for n, r, c in matrices) + vectors

    def _trained_in_layers(self) -> list[tuple[int, int, int]]:
        """How many there are, rows and columns of each kind of matrix in the layers."""
        layers, a = int(self.config["num_hidden_layers"]), self.adapter
        if a is None:
            return [(layers, *sizes) for sizes in self.matrices().values()]
        chosen = [sizes for name, sizes in self.matrices().items() if _is_in(name, a.target)]
        pairs = [((a.rank, columns), (rows, a.rank)) for rows, columns in chosen]
        return [(layers, *sizes) for pair in pairs for sizes in pair]

    def tensor_share(self, tensor: int) -> float:
        """The share of the parameters that one of `tensor` workers holds.

        DeepSpeed's AutoTP cuts the matrices of the layers and an untied output head; embeddings
        and norms stay whole (deepspeed/module_inject/auto_tp.py).
        """
        layers = int(self.config["num_hidden_layers"])
        cut = layers * sum(rows * columns for rows, columns in self.matrices().values())
        cut += self.output_parameters if self.head == "causal_lm" else 0
        whole = self.count.parameters
        return (whole - cut + cut / tensor) / whole

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, from which `from_dict` makes the same shape again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelShape:
        """The inverse of `to_dict`, also after the data went through JSON."""
        adapter = data.get("adapter")
        if adapter is not None:
            adapter = Adapter.from_dict(adapter)
        return cls(**{**data, "adapter": adapter})

    @property
    def _adapts_head(self) -> bool:
        """Whether an adapter is beside the dense layer of BERT's head too: its pooler, or that
        which comes before the embedding that predicts."""
        name = "pooler.dense" if self.head == "classification" else "transform.dense"
        target = self.adapter.target if self.adapter else ()
        return self.architecture == "bert" and _is_in(name, target)

    def _adapter_parameters(self) -> int:
        """rank × (outputs + inputs) for each matrix that the adapter is beside."""
        assert self.adapter is not None, "the caller looked"
        hidden, target = int(self.config["hidden_size"]), self.adapter.target
        wide = int(self.config["num_hidden_layers"]) * sum(
            rows + columns
            for name, (rows, columns) in self.matrices().items()
            if _is_in(name, target)
        )
        wide += 2 * hidden if self._adapts_head else 0
        head = self.output_parameters if self.head == "classification" else 0
        if head and self.architecture == "bert":
            head += self.num_labels  # its bias
        return self.adapter.rank * wide + head


def _is_in(name: str, target: str | tuple[str, ...]) -> bool:
    """As peft matches module names: the whole name, or its end after a dot."""
    if target == "all-linear":
        return True
    wanted = (target,) if isinstance(target, str) else target
    return any(name == each or name.endswith(f".{each}") for each in wanted)
