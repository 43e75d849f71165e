"""Texts that models write: greedy answers of decoders, and answers of encoder–decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from raymodel.modality.text import TextProcessor
from raymodel.tasks.base import Limits
from raymodel.tasks.batch import pad_left, pad_right
from raymodel.tasks.boundaries import end_tokens, first_token, up_to_end
from raymodel.tasks.prompt import end_of_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# A model's own generation_config.json may ask for other things, which the server does not do.
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": None,
}
# Of several beams the one whose tokens are the most probable on average (arXiv:1609.08144 has more
# ways); a search ends when no open one can become better.
_BEAMS: dict[str, Any] = {
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_return_sequences": 1,
    "min_length": 0,
}


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    processor: TextProcessor,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to a batch of prompts, stripped, each up to its end token.

    A prompt that leaves no room for the answer in the model's positions loses the start of its
    text.
    """
    tokenizer = processor.tokenizer
    room = model.config.max_position_embeddings - max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, but the model has only "
            f"{model.config.max_position_embeddings} positions; ask for fewer tokens"
        )
    first, ends = first_token(tokenizer), end_tokens(model, tokenizer)
    cut = [end_of_prompt(prompt, room, tokenizer) for prompt in prompts]
    tokens = [prompt or ([] if first is None else [first]) for prompt in cut]
    if not all(tokens):
        raise ValueError(
            "a prompt is empty, and the tokenizer has neither a `bos_token` nor an `eos_token` to "
            "begin from; set one, or leave such examples out"
        )
    input_ids, mask = pad_left(tokens, processor.padding)  # (B, T)
    output = model.generate(  # type: ignore[operator]  # torch types it as a tensor
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        **_GREEDY,
        eos_token_id=sorted(ends) or None,
        pad_token_id=processor.padding,
    )
    new_tokens = output[:, input_ids.shape[1] :]
    return [processor.decode(up_to_end(ids, ends)).strip() for ids in new_tokens.tolist()]


@torch.inference_mode()
def generate_targets(
    model: PreTrainedModel,
    processor: TextProcessor,
    sources: Sequence[Sequence[int]],
    limits: Limits,
) -> list[str]:
    """What an encoder–decoder writes to a batch of sources, stripped, each up to its end token.

    No longer than the positions that its decoder has. A source that is longer than the encoder has
    positions for loses its end.
    """
    # T5 has relative positions, and no limit.
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    ends = end_tokens(model, processor.tokenizer)
    # Rounded up with padding, which may reach beyond the positions that the model has.
    input_ids, mask = (part[:, :positions] for part in pad_right(sources, processor.padding))
    most = limits.max_new_tokens if positions is None else positions - 1
    output = model.generate(  # type: ignore[operator]  # torch types it as a tensor
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max(1, min(limits.max_new_tokens, most)),
        **_GREEDY | _BEAMS | {"num_beams": limits.beams},
        eos_token_id=sorted(ends) or None,
        pad_token_id=processor.padding,
    )
    # Before the first that it writes stands what it begins with.
    return [processor.decode(up_to_end(ids, ends)).strip() for ids in output[:, 1:].tolist()]
