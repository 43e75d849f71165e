"""What rows of text are filled up with, where a model must know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def settle_padding(tokenizer: Any, config: PretrainedConfig) -> str | None:
    """Padding is the tokenizer's, else its end of text.

    A decoder's class is read off the last token that is not padding, so another id than that which
    rows are filled with would read it off the padding.

    Returns: what was changed, in words; None when nothing was.

    Raises:
        ValueError: the tokenizer has neither.
    """
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = tokenizer.eos_token_id
    if padding is None:
        raise ValueError(
            "the tokenizer has neither a padding nor an end-of-text token, and texts of "
            "different lengths need one to be filled up with; set tokenizer.pad_token and save "
            "it again"
        )
    text_config = config.get_text_config()
    if text_config.pad_token_id == padding:
        return None
    before, text_config.pad_token_id = text_config.pad_token_id, padding
    word = "padding" if tokenizer.pad_token_id is not None else "end-of-text"
    return (
        f"pad_token_id of the model becomes {padding}, the tokenizer's {word} token, which its "
        f"texts are filled up with (it was {before})"
    )
