"""How a prompt that is too long is cut, in training as in evaluation. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_of_prompt(ids: Sequence[int], room: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """At most `room` ids: those that the tokenizer puts in front of a text, then the last ones.

    What is nearest to the answer matters most; a beginning-of-text token is what the model has
    seen at the start of every text.
    """
    if len(ids) <= room:
        return list(ids)
    is_added = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    in_front = is_added.index(0) if 0 in is_added else 0
    front = list(ids[: min(in_front, room)])
    return front + list(ids[len(ids) - (room - len(front)) :])
