"""Where a text begins and where an answer ends, for evaluation and server alike: what is measured
is what is served."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids at which an answer ends; empty when there is no such.

    A model folder names them in up to three files, and chat models name different ones in each: the
    tokenizer the end of a text, the generation configuration the end of a turn too. All count.
    """
    config = model.config.get_text_config(decoder=True)
    return frozenset(
        [
            *_ids(tokenizer.eos_token_id),
            *_ids(getattr(config, "eos_token_id", None)),
            *_ids(getattr(model.generation_config, "eos_token_id", None)),
        ]
    )


def up_to_end(ids: Iterable[int], ends: frozenset[int]) -> list[int]:
    """An answer's ids before its first end token, after which there is only padding."""
    kept: list[int] = []
    for token in ids:
        if token in ends:
            break
        kept.append(token)
    return kept


def first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What stands for an empty prompt: a text begins with it, or after it; None without such."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return None


def _ids(value: Any) -> list[int]:
    """Configurations hold None, one id, or a list of ids."""
    if value is None:
        return []
    return [int(token) for token in value] if isinstance(value, list | tuple) else [int(value)]
