"""What closes a text, and how what is too long is cut, in training as in evaluation. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TOO_LONG = "longer than max_length"
"""Why an example is left out where the job says `too_long: drop`."""


def fit_answers(
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    max_length: int | None,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[list[int], list[list[int]]]:
    """The same prompt before each of its answers, at most `max_length` ids of the two together.

    The prompt loses the start of its text, and an answer of more than half of the room its end:
    with it the token that closes it, since it does not end there.
    """
    if max_length is None:
        return list(prompt), [list(answer) for answer in answers]
    room = max(max_length // 2, max_length - len(prompt))
    kept = [list(answer[:room]) for answer in answers]
    longest = max(len(answer) for answer in kept)
    return end_of_prompt(prompt, max_length - longest, tokenizer), kept


def end_of_prompt(ids: Sequence[int], room: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """At most `room` ids: those that stand in front of every text, then the last ones.

    What is nearest to the answer matters most; a beginning-of-text token, which the tokenizer or a
    chat template puts in front, is what the model has seen at the start of every text.
    """
    if len(ids) <= room:
        return list(ids)
    is_added = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    in_front = is_added.index(0) if 0 in is_added else 0
    in_front = max(in_front, int(ids[0] == tokenizer.bos_token_id))
    front = list(ids[: min(in_front, room)])
    return front + list(ids[len(ids) - (room - len(front)) :])


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that closes a text. Raises ValueError where the tokenizer has none."""
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer has no end-of-text token (`eos_token`); set one")
    return int(end)
