"""A model that was counted on the meta device: what is asked, what was seen, and the shape of it.

For architectures without a formula (`count.py`). `meta_count.py` counts; nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raymodel.model.activations import Activations, Attention
from raymodel.model.shape import Adapter, ModelShape

Precision = Literal["bf16", "fp16", "fp32"]
_TRANSCRIPT_TOKENS = 128
"""Of half a minute of speech, which is what the longest clip of Whisper holds."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """One argument of a model's forward, for one row."""

    shape: tuple[int, ...]
    """Without the batch: (T,), or (C, H, W)."""
    kind: Literal["ids", "numbers"] = "ids"
    """Whole numbers, or numbers in the precision of the model."""


Row = Mapping[str, Input]
"""Argument of the forward → its shape, of one row."""


def text_row(tokens: int) -> Row:
    """A row of so many tokens, none of them padding."""
    return {name: Input(shape=(tokens,)) for name in ("input_ids", "attention_mask")}


Lengths = Callable[[int], Mapping[str, int]]
"""Tokens of a row → argument of the forward → its length, as `Task.forward_lengths`."""


def text_rows(tokens: int, lengths: Lengths | None = None) -> tuple[tuple[int, Row], ...]:
    """Rows of so many tokens and of half as many, as `Counting` takes them.

    Args:
        lengths: of the arguments; by default those of `text_row`.
    """
    sizes = dict.fromkeys((tokens, tokens // 2 or 1))
    if lengths is None:
        return tuple((size, text_row(size)) for size in sizes)
    return tuple(
        (size, {name: Input(shape=(length,)) for name, length in lengths(size).items()})
        for size in sizes
    )


def image_row(channels: int, height: int, width: int) -> Row:
    """One image."""
    return {"pixel_values": Input(shape=(channels, height, width), kind="numbers")}


def audio_row(inputs: Mapping[str, Sequence[int]], *, writes: bool) -> Row:
    """The longest clip; with the tokens of what is said in it, where a decoder writes them."""
    row = {name: Input(shape=tuple(shape), kind="numbers") for name, shape in inputs.items()}
    # Only Whisper, which has a decoder, takes what has that name.
    if writes and "input_features" in row:
        row["decoder_input_ids"] = Input(shape=(_TRANSCRIPT_TOKENS,))
    return row


def rows_of(
    modality: str, facts: Mapping[str, Any], tokens: int, lengths: Lengths | None = None
) -> tuple[tuple[int, Row], ...]:
    """The rows of a modality, as `Counting` takes them.

    Args:
        facts: of its processor.
        tokens: of the longest row, where rows have tokens; an image or a clip counts as one.
        lengths: of what a model is given of so many tokens.
    """
    if modality == "text":
        return text_rows(tokens, lengths)
    if modality.startswith("audio"):
        return ((1, audio_row(facts["inputs"], writes=modality == "audio+text")),)
    size = facts["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return ((1, image_row(facts["num_channels"], height, width)),)


@dataclass(frozen=True, kw_only=True)
class Counting:
    """What to count."""

    rows: tuple[tuple[int, Row], ...]
    """Sizes of rows in what throughput is measured in (tokens; patches), each with its arguments:
    the longest, of which the activations are counted, and perhaps a shorter one, from which it is
    known how arithmetic grows."""
    precision: Precision = "bf16"
    attention: Attention = "sdpa"
    on_gpu: bool = False
    labels: int = 2
    """Of a task that has some."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, from which `from_dict` makes the same again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Counting:
        """The inverse of `to_dict`, also after the data went through JSON."""
        rows = tuple((size, _row_from_dict(row)) for size, row in data["rows"])
        return cls(**{**data, "rows": rows})


@dataclass(frozen=True, kw_only=True)
class MetaCount:
    """What was counted of a model, an adapter included."""

    trained: int
    """Parameters that training changes; tied ones once."""
    frozen: int
    buffer_bytes: int
    largest: int
    """Elements of the largest parameter."""
    hidden: int
    """Trained numbers in the matrices of hidden layers."""
    sides: int
    """The sizes of all dimensions of all trained parameters, added up."""
    cut: int
    """Elements of the linear layers in numbered layers, and of an output head of its own."""
    head: int
    """Elements of the matrix that makes logits over a vocabulary, where it is trained."""
    forward_flops: tuple[tuple[int, float], ...]
    """Size of a row → multiplications and additions of its forward pass."""
    row_bytes: Activations
    """What the longest row keeps for its backward pass."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MetaCount:
        """The inverse of `dataclasses.asdict`, also after the data went through JSON."""
        return cls(
            **{
                **data,
                "forward_flops": tuple((size, flops) for size, flops in data["forward_flops"]),
                "row_bytes": Activations(**data["row_bytes"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class CountedShape:
    """A model to train, as `ModelShape`, of which all was counted for rows of one size."""

    architecture: str
    config: Mapping[str, Any] = field(hash=False)
    """Fields of the Hugging Face configuration."""
    count: MetaCount
    adapter: Adapter | None = None

    @property
    def trained(self) -> int:
        """Parameters that training changes."""
        return self.count.trained

    @property
    def frozen(self) -> int:
        """Parameters that are only read."""
        return self.count.frozen

    @property
    def buffer_bytes(self) -> int:
        """Of what a model holds that is no parameter."""
        return self.count.buffer_bytes

    @property
    def largest(self) -> int:
        """Elements of the largest parameter."""
        return self.count.largest

    @property
    def hidden(self) -> int:
        """Trained numbers in the matrices of hidden layers."""
        return self.count.hidden

    @property
    def sides(self) -> int:
        """Rows and columns of all trained matrices, and the numbers of all vectors."""
        return self.count.sides

    def head_gradient(self, tensor: int = 1) -> float:
        """Elements of the gradient of a language model's output head on one worker."""
        return self.count.head / tensor

    def tensor_share(self, tensor: int) -> float:
        """The share of the parameters that one of `tensor` workers holds."""
        whole = self.count.trained + self.count.frozen
        return (whole - self.count.cut + self.count.cut / tensor) / whole

    def train_flops_per_token(self, row_tokens: int) -> float:
        """Forward and backward, which costs twice the forward (`ModelCount` has the sources).

        A row costs a part that grows with its size and a part that grows with its square, so that
        what a token costs lies on the line through two counted sizes.
        """
        (long, most), *shorter = self.count.forward_flops
        if not shorter:
            return 3.0 * most / long
        (short, least), *_ = shorter
        slope = (most / long - least / short) / (long - short)
        return 3.0 * (most / long + slope * (row_tokens - long))

    def activations(self) -> Activations:
        """Bytes for one token, in the precision and with the kernels that were asked for."""
        size = self.count.forward_flops[0][0]
        row = self.count.row_bytes
        each = {name: value / size for name, value in asdict(row).items()}
        return Activations(**{**each, "once": row.once})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, from which `shape_from_dict` makes the same shape again."""
        return asdict(self)


Shape = ModelShape | CountedShape
"""A model to train: of a family with formulas, or counted."""


def shape_from_dict(data: Mapping[str, Any]) -> Shape:
    """The inverse of `to_dict` of either kind, also after the data went through JSON."""
    if "count" not in data:
        return ModelShape.from_dict(data)
    adapter = Adapter.from_dict(data["adapter"]) if data["adapter"] else None
    return CountedShape(**{**data, "count": MetaCount.from_dict(data["count"]), "adapter": adapter})


def _row_from_dict(row: Mapping[str, Any]) -> Row:
    return {
        name: Input(shape=tuple(each["shape"]), kind=each["kind"]) for name, each in row.items()
    }
