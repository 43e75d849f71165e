"""Which decoder a model can have: batched slots, or one request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from raymodel.errors import SpecError
from raymodel.observe.slow_paths import take_slow_path
from raymodel.serve.capacity import CachePlan, plan_cache
from raymodel.serve.forward import CachedForward, find_cache_word, takes
from raymodel.serve.memory import free_bytes
from raymodel.serve.slots import SlotDecoder

# Rotary scalings whose frequencies follow the longest row of a batch: a row's answer would depend
# on its neighbours. (transformers, modeling_rope_utils.dynamic_rope_update)
_ROPE_OF_THE_BATCH = ("dynamic", "longrope")
# Allowed difference of the probe's logits, as a share of the largest: the noise of summation order
# is a hundredth of these, a wrong position or mask far more.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class Decoder(Protocol):
    """Rows of running requests; see `SlotDecoder` for the meaning of each method."""

    mode: str
    num_slots: int
    context_tokens: int
    lengths: list[int]
    reads_in_pieces: bool
    """Whether it has `extend`."""

    def prefill(self, prompts: Sequence[Sequence[int]], *, every: bool = False) -> torch.Tensor: ...
    def extend(self, tokens: Sequence[int], *, every: bool = False) -> torch.Tensor: ...
    def step(self, tokens: Sequence[int]) -> torch.Tensor: ...
    def release(self, row: int, num_running: int) -> None: ...
    def has_room(self, num_rows: int, length: int) -> bool: ...
    def facts(self) -> dict[str, Any]: ...


class SingleDecoder:
    """One request at a time, for every architecture: the model keeps its own kind of cache.

    A model whose output brings no cache is run over the whole row at every step.
    """

    mode = "one request at a time"
    what = f"answers {mode}"
    num_slots = 1
    reads_in_pieces = False  # nobody else waits for a step

    def __init__(self, model: PreTrainedModel, context_tokens: int) -> None:
        self.model = model
        self.context_tokens = context_tokens
        self.lengths: list[int] = []
        self._tokens: list[int] = []
        self._cache: Any = None
        self._forward = CachedForward(model)

    def prefill(self, prompts: Sequence[Sequence[int]], *, every: bool = False) -> torch.Tensor:
        """Starts the one row; returns (1, V) logits, or (1, T, V) of every place."""
        [prompt] = prompts
        assert not self.lengths, "the one slot is taken"
        self._tokens, self._cache = list(prompt), None
        self.lengths = [len(prompt)]
        logits_1TV = self._read(self._tokens)
        return logits_1TV if every else logits_1TV[:, -1]

    def extend(self, tokens: Sequence[int], *, every: bool = False) -> torch.Tensor:
        raise NotImplementedError

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Feeds one token; returns (1, V) logits."""
        self._tokens += tokens
        self.lengths = [len(self._tokens)]
        return self._read(self._tokens if self._cache is None else list(tokens))[:, -1]

    def release(self, row: int, num_running: int) -> None:
        """Forgets the row."""
        self.lengths, self._tokens, self._cache = [], [], None

    def has_room(self, num_rows: int, length: int) -> bool:
        """For the one there is."""
        return True

    def facts(self) -> dict[str, Any]:
        """What its cache takes, the model knows."""
        return {}

    @property
    def has_cache(self) -> bool:
        """Whether the model has brought a cache of the row."""
        return self._cache is not None

    def _read(self, tokens: list[int]) -> torch.Tensor:
        input_ids = torch.tensor([tokens], device=self.model.device)
        logits_1TV, self._cache = self._forward(input_ids, self._cache)
        return logits_1TV


def build_decoder(
    model: PreTrainedModel, num_slots: int | None, context_tokens: int, replicas: int = 1
) -> Decoder:
    """Slots where they give the model's own logits, else one request at a time: a slow path.

    Args:
        num_slots: None leaves it to the memory.
        context_tokens: fewer where the memory holds fewer.
        replicas: that may share this machine's memory.

    Raises:
        ClusterError: the memory holds no keys and values.
    """
    obstacle = find_obstacle(model)
    if obstacle is None:
        plan = _plan_slots([model], num_slots, context_tokens, replicas)
        return SlotDecoder(model, plan.rows, plan.context_tokens, plan)
    name = type(model).__name__
    take_slow_path(SingleDecoder.what, f"{name} cannot be batched continuously: {obstacle}")
    single = SingleDecoder(model, context_tokens)
    if not _keeps_cache(single):
        take_slow_path("reads the whole text again for each token", f"{name} gives no cache")
    return single


def build_pair(
    model: PreTrainedModel,
    draft: PreTrainedModel,
    num_slots: int | None,
    context_tokens: int,
    replicas: int = 1,
) -> tuple[SlotDecoder, SlotDecoder]:
    """A model's slots and those of its draft, which share the memory.

    The arguments are those of `build_decoder`.

    Raises:
        SpecError: one of the two has no slots, in which several tokens are read at once.
        ClusterError: the memory holds no keys and values.
    """
    for each, what in ((model, "the model"), (draft, "the draft")):
        if (obstacle := find_obstacle(each)) is not None:
            raise SpecError(
                f"serve.draft is for models that are batched continuously, and {what}, a "
                f"{type(each).__name__}, is not: {obstacle}. Leave serve.draft out, or take another"
            )
    plan = _plan_slots([model, draft], num_slots, context_tokens, replicas)
    served, own = (
        SlotDecoder(each, plan.rows, plan.context_tokens, plan) for each in (model, draft)
    )
    return served, own


def _plan_slots(
    models: Sequence[PreTrainedModel], num_slots: int | None, context_tokens: int, replicas: int
) -> CachePlan:
    """What the memory holds of the keys and values of all of them."""
    device = models[0].device.type
    return plan_cache(
        left_bytes=free_bytes(device),
        token_bytes=sum(map(_token_bytes, models)),
        context_tokens=context_tokens,
        device=device,
        asked_rows=num_slots,
        replicas=replicas,
    )


@torch.inference_mode()
def _token_bytes(model: PreTrainedModel) -> int:
    """Of the keys and values of one token: seen, as a layer may keep them for fewer heads than the
    configuration names, or for none."""
    decoder = SlotDecoder(model, num_slots=1, context_tokens=2)
    decoder.prefill([[1, 2]])
    return decoder.token_bytes


@torch.inference_mode()
def _keeps_cache(decoder: SingleDecoder) -> bool:
    """Tried, since an architecture may take a cache and not give one."""
    decoder.prefill([[1, 2]])
    keeps = decoder.has_cache
    decoder.release(0, 1)
    return keeps


def find_obstacle(model: PreTrainedModel) -> str | None:
    """Why a model cannot decode in slots; None when it can, which a probe has then shown."""
    config = model.config.get_text_config(decoder=True)
    if find_cache_word(model) is None:
        return "its forward takes no cache"
    for name in ("position_ids", "attention_mask", "logits_to_keep"):
        if not takes(model, name):
            return f"its forward takes no {name}"
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"its attention is {config._attn_implementation}, which takes no mask for each row"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _ROPE_OF_THE_BATCH:
        return f"its rotary scaling {rope['rope_type']!r} depends on the longest row"
    layers = DynamicCache(config=config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return "not all of its layers attend to the whole context"
    return _probe(model)


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> str | None:
    """Two rows that join at different times, one in pieces, and are given unequally many tokens, of
    which some are taken back, against plain forward passes."""
    first, second = [1, 2, 3, 4, 5, 6], [3, 1, 2, 5]
    decoder = SlotDecoder(model, num_slots=2, context_tokens=16)
    try:
        decoder.prefill([first])
        decoder.step([7])
        decoder.prefill([second[:2]])
        decoder.extend(second[2:])
        decoder.read([[8, 4, 2], [9]])
        decoder.cut(0, len(first) + 2)
        slots = decoder.step([2, 3])
        plain = torch.stack(
            [
                model(input_ids=torch.tensor([row], device=model.device)).logits[0, -1]
                for row in ([*first, 7, 8, 2], [*second, 9, 3])
            ]
        )
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"a trial failed with {type(error).__name__}: {error}"
    difference = (slots - plain).abs().max().item()
    allowed = _TOLERANCE.get(model.dtype, 5e-2) * plain.abs().max().item()
    if not difference <= allowed:
        return f"in a trial its logits differed by {difference:.3g}, allowed is {allowed:.3g}"
    return None
