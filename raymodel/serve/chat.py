"""From a conversation to a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from raymodel.serve.protocol import Message
from raymodel.serve.refusal import Refusal

# What a model without a chat template gets: each turn as `role: text` on lines of its own, then
# `assistant:` for the model to go on. The answer ends where the model begins the user's next turn.
PLAIN_STOPS = ("\nuser:",)


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation, ready for the assistant's turn.

    Raises:
        Refusal: 400 when the model's template does not take these turns.
    """
    if not has_template(tokenizer):
        ids: list[int] = tokenizer(plain_chat(messages))["input_ids"]
        return ids
    turns = [{"role": message.role, "content": message.text} for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise Refusal(
            400, f"the model's chat template refuses these messages: {error}", param="messages"
        ) from error
    # The template writes the special tokens itself.
    templated: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return templated


def plain_chat(messages: Sequence[Message]) -> str:
    """`user: …\\nassistant:`, the default template."""
    turns = [f"{message.role}: {message.text}\n" for message in messages]
    return "".join([*turns, "assistant:"])


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model brings its own chat template."""
    return bool(getattr(tokenizer, "chat_template", None))
