"""KV slots: one dense key/value store per layer, one row per running request.

Rows 0 … N-1 are the running requests, so a decoding step works on the slice `[:N]` without
gathering. A request that joins takes row N; when one leaves, the last of them moves into its place.
Behind them there may be one row whose prompt is read in pieces, between the steps of the others.

Shapes: N running rows, P prompts, H key/value heads, C capacity in tokens, L longest row, T tokens
of a row that are read in one pass, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from raymodel.serve.capacity import CachePlan
from raymodel.serve.forward import CachedForward

_FIRST_CAPACITY = 256  # doubled when a row outgrows it, so short chats never pay for a long context


@dataclass
class _Cursor:
    """Where the layers write in the forward pass that is under way; shared by all of them."""

    num_rows: int = 1
    """Rows of the store."""
    capacity: int = _FIRST_CAPACITY
    first_row: int = 0
    """Prefill: the row of the first prompt."""
    start: int = 0
    """Prefill: tokens of the row that are stored already."""
    rows: torch.Tensor | None = None
    """Decoding: (N, 1) row numbers; None while a prefill runs."""
    positions: torch.Tensor | None = None
    """Decoding: (N, T) where each row's new tokens go."""
    length: int = 0
    """Decoding: L, the tokens of the longest row with its new ones."""


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, (rows, H, C, D), seen by `transformers` as a cache layer."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, cursor: _Cursor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cursor = cursor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates the store in the shape that the first keys and values show."""
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self.is_initialized = True

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        heads, head_size = like.shape[1], like.shape[3]
        return like.new_zeros(self.cursor.num_rows, heads, self.cursor.capacity, head_size)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores what is new and returns what attention shall see.

        Prefill takes (P, H, T, D) and returns it, behind what is stored of the row; decoding takes
        (N, H, T, D) and returns (N, H, L, D), of which the mask hides what lies behind each token's
        own position.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = self.cursor
        if at.rows is None:
            rows = slice(at.first_row, at.first_row + len(key_states))
            end = at.start + key_states.shape[2]
            self.keys[rows, :, at.start : end] = key_states
            self.values[rows, :, at.start : end] = value_states
            if at.start == 0:
                return key_states, value_states
            return self.keys[rows, :, :end], self.values[rows, :, :end]
        self.keys[at.rows, :, at.positions] = key_states.transpose(1, 2)
        self.values[at.rows, :, at.positions] = value_states.transpose(1, 2)
        num_rows = len(key_states)
        return self.keys[:num_rows, :, : at.length], self.values[:num_rows, :, : at.length]

    def resize(self) -> None:
        """Moves to a store of the cursor's rows and capacity."""
        if self.is_initialized:
            old_keys, old_values = self.keys, self.values
            self.lazy_initialization(old_keys, old_values)
            rows = slice(min(len(old_keys), self.cursor.num_rows))
            length = slice(min(old_keys.shape[2], self.cursor.capacity))
            self.keys[rows, :, length] = old_keys[rows, :, length]
            self.values[rows, :, length] = old_values[rows, :, length]

    def forget(self) -> None:
        """Gives the store back."""
        self.is_initialized = False
        self.keys = self.values = torch.empty(0)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one row over another."""
        if not self.is_initialized:  # no row has any
            return
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Asked where each row sees itself alone; all else brings its own mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: every prefill starts at its row's beginning."""
        return 0

    def get_max_length(self) -> int:
        """-1: the store grows."""
        return -1


@dataclass
class SlotDecoder:
    """Runs a causal language model over `num_slots` rows, each at its own position.

    Tokens equal those of `model.generate`; the numbers differ from it only by the order of
    summation that another batch size brings.
    """

    model: PreTrainedModel
    num_slots: int
    context_tokens: int
    """Longest row; the caller ends a request before it is exceeded."""
    plan: CachePlan | None = None
    """How much the store may hold; None sets no limit."""
    lengths: list[int] = field(default_factory=list)
    """Tokens stored for each row."""

    mode = "continuous batching"
    reads_in_pieces = True

    def __post_init__(self) -> None:
        self._cursor = _Cursor()
        num_layers = self.model.config.get_text_config(decoder=True).num_hidden_layers
        self._layers = [SlotLayer(self._cursor) for _ in range(num_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._row_numbers = torch.arange(self.num_slots, device=self.model.device)[:, None]
        self._forward = CachedForward(self.model)

    @property
    def token_bytes(self) -> int:
        """Of the keys and values of one token, once there are some."""
        stores = [store for layer in self._layers for store in (layer.keys, layer.values)]
        places = self._cursor.num_rows * self._cursor.capacity
        return sum(store.nbytes for store in stores) // places

    def has_room(self, num_rows: int, length: int) -> bool:
        """Whether so many rows of this length find room beside each other; one alone always has."""
        most = None if self.plan is None else self.plan.cache_tokens
        return most is None or num_rows == 1 or num_rows * length <= most

    def facts(self) -> dict[str, Any]:
        """What `/health` tells of the store."""
        if self.plan is None:
            return {}
        return {"cache_tokens": self.plan.cache_tokens, "cache_bytes": self.plan.cache_bytes}

    def prefill(self, prompts: Sequence[Sequence[int]], *, every: bool = False) -> torch.Tensor:
        """Reads prompts into new rows behind the running ones.

        Shorter prompts are padded on the right: the causal mask hides the padding from every real
        token, and decoding overwrites it before it can be seen.

        Returns:
            (P, V) logits of the token that follows each prompt, or, of every place, (P, T, V).
        """
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        self._reserve(len(self.lengths) + len(prompts), longest)
        self._cursor.first_row, self._cursor.start = len(self.lengths), 0
        self._cursor.rows = None
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        ends = sorted({length - 1 for length in lengths})
        keep = 0 if every else torch.tensor(ends, device=self.model.device)  # 0 is all
        logits_PEV, _ = self._forward(
            torch.tensor(padded, device=self.model.device),
            self._cache,
            position_ids=torch.arange(longest, device=self.model.device).expand(len(prompts), -1),
            logits_to_keep=keep,
        )
        self.lengths.extend(lengths)
        if every:
            return logits_PEV
        own_end = [ends.index(length - 1) for length in lengths]
        return logits_PEV[range(len(prompts)), own_end]

    def open(self, count: int) -> None:
        """Takes new rows behind the running ones that have read nothing."""
        self.lengths.extend([0] * count)
        self._reserve(len(self.lengths), 1)

    def extend(
        self, tokens: Sequence[int], row: int | None = None, *, every: bool = False
    ) -> torch.Tensor:
        """Reads more of one row, of the last one's prompt unless another is named; returns (1, V)
        logits of what follows, or, of every place, (1, T, V)."""
        at, device = self._cursor, self.model.device
        row = len(self.lengths) - 1 if row is None else row
        at.first_row, at.start, at.rows = row, self.lengths[row], None
        end = at.start + len(tokens)
        self._reserve(len(self.lengths), end)
        positions_1T = torch.arange(at.start, end, device=device)[None]
        logits_1TV, _ = self._forward(
            torch.tensor([tokens], device=device),
            self._cache,
            position_ids=positions_1T,
            attention_mask=self._mask(positions_1T, end),
            logits_to_keep=0 if every else 1,
        )
        self.lengths[row] = end
        return logits_1TV if every else logits_1TV[:, -1]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Feeds one token to each of the first N rows; returns (N, V) logits of the next ones."""
        return self.read([[token] for token in tokens])[:, -1]

    def read(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feeds tokens, at least one, to each of the first N rows, in one pass.

        A row that is given fewer than another has its last token once more, in the same place: so
        no place is written that is not the row's, and nothing has to be hidden.

        Returns:
            (N, T, V) logits of the token that follows each; the last of a row are those that follow
            its last token, however many it was given.
        """
        at, device = self._cursor, self.model.device
        ends = [length + len(row) for length, row in zip(self.lengths, rows, strict=False)]
        longest = max(map(len, rows))
        at.length = max(ends)
        self._reserve(len(self.lengths), at.length)
        tokens = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
        begins = torch.tensor(self.lengths[: len(rows)], device=device)[:, None]
        last = torch.tensor(ends, device=device)[:, None] - 1
        at.rows = self._row_numbers[: len(rows)]
        at.positions = torch.minimum(begins + torch.arange(longest, device=device), last)
        logits_NTV, _ = self._forward(
            torch.tensor(tokens, device=device),
            self._cache,
            position_ids=at.positions,
            attention_mask=self._mask(at.positions, at.length),
        )
        self.lengths[: len(rows)] = ends
        return logits_NTV

    def cut(self, row: int, length: int) -> None:
        """Takes back what a row has beyond its first tokens; what comes next is written over it."""
        assert length <= self.lengths[row], (length, self.lengths[row])
        self.lengths[row] = length

    def release(self, row: int, num_running: int) -> None:
        """Frees a row; the last running one takes its number, and the one behind it the last one's.

        With the last row a store goes that has grown, perhaps for a single long prompt.

        Args:
            num_running: rows that run; there may be one more, whose prompt is being read.
        """
        for source, target in ((num_running - 1, row), (len(self.lengths) - 1, num_running - 1)):
            if row < num_running and source > target:
                for layer in self._layers:
                    layer.move(source, target, self.lengths[source])
                self.lengths[target] = self.lengths[source]
        self.lengths.pop()
        is_grown = self._cursor.num_rows > 1 or self._cursor.capacity > _FIRST_CAPACITY
        if not self.lengths and is_grown:
            self._cursor.num_rows, self._cursor.capacity = 1, _FIRST_CAPACITY
            for layer in self._layers:
                layer.forget()

    def _mask(self, positions_NT: torch.Tensor, length: int) -> torch.Tensor:
        """(N, 1, T, L), added to the attention scores: 0 up to a token's position, lowest behind.

        Additive, and made once a step: every attention implementation takes it, and none has to
        convert it again in every layer.
        """
        dtype = self.model.dtype
        device = positions_NT.device
        hidden = torch.arange(length, device=device) > positions_NT[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
        return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]

    def _reserve(self, num_rows: int, length: int) -> None:
        """Has the store hold so many rows, and one of this length.

        Both grow to twice as much, so that copying costs little; where the plan has no room for
        that, the rows are those that there are, and share it evenly.
        """
        at = self._cursor
        if num_rows <= at.num_rows and length <= at.capacity:
            return
        length = max(length, *self.lengths, 1)
        rows, capacity = at.num_rows, at.capacity
        while rows < num_rows:
            rows *= 2
        while capacity < length:
            capacity *= 2
        rows = max(num_rows, min(rows, self.num_slots))
        capacity = max(length, min(capacity, self.context_tokens))
        if self.plan is not None and rows * capacity > self.plan.cache_tokens:
            rows = num_rows
            capacity = max(length, min(capacity, self.plan.cache_tokens // rows))
        at.num_rows, at.capacity = rows, capacity
        for layer in self._layers:
            layer.resize()
