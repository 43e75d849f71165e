"""From a conversation to a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from raymodel.modality.call_form import CallForm
from raymodel.modality.chat import ChatError, ChatFormat, Tool, Turn
from raymodel.serve.refusal import Refusal

# Where the answer of a model without a chat template ends: it begins the user's next turn.
PLAIN_STOPS = ("\nuser:",)


def render_chat(
    chat: ChatFormat,
    turns: Sequence[Turn],
    param: str,
    tools: Sequence[Tool] | None = None,
    form: CallForm | None = None,
) -> list[int]:
    """Token ids of the conversation, ready for the assistant's turn: those that training gave the
    model for these turns.

    Args:
        param: the request's field that holds them.
        tools: functions that the model may call.
        form: how it calls them, where turns do.

    Raises:
        Refusal: 400 when the model's template does not take these turns.
    """
    try:
        return chat.prompt(turns, tools, None if form is None else form.turns)
    except ChatError as error:
        raise Refusal(400, f"the {param} cannot be asked: {error}", param=param) from error
