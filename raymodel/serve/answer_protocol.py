"""What comes back of generated text, whole: as `shapes.py`, `tool_shape.py` and
`responses_shape.py` write it. For who reads `/openapi.json`; nothing is checked by it.

Sources: https://platform.openai.com/docs/api-reference/chat/object,
https://platform.openai.com/docs/api-reference/completions/object,
https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from raymodel.serve.answer import FinishReason
from raymodel.serve.protocol import AnswerModel, Usage

# ---- /v1/completions -----------------------------------------------------------------------------


class CompletionLogprobs(AnswerModel):
    """Of a text's tokens; of the first of a prompt none is known."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Characters before each token."""


class CompletionChoice(AnswerModel):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    """Where they were asked for."""
    finish_reason: FinishReason


class Completion(AnswerModel):
    """The answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


# ---- /v1/chat/completions ------------------------------------------------------------------------


class OneTokenLogprob(AnswerModel):
    """Of a token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(OneTokenLogprob):
    """Of a token, and of those that were likely in its place."""

    top_logprobs: list[OneTokenLogprob]


class ChatLogprobs(AnswerModel):
    """Of an answer's tokens."""

    content: list[TokenLogprob]
    refusal: None


class CalledTool(AnswerModel):
    """A function, with arguments."""

    name: str
    arguments: str
    """JSON, as a text."""


class ToolCallOfAnswer(AnswerModel):
    """A call that the answer makes."""

    id: str
    type: Literal["function"]
    function: CalledTool


class AnswerMessage(AnswerModel):
    """What the assistant says."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)

    role: Literal["assistant"]
    content: str | None
    """Null where it only calls functions."""
    refusal: None
    tool_calls: Annotated[list[ToolCallOfAnswer], Field(min_length=1)] = Field(default_factory=list)
    """Only where it calls functions."""


class ChatChoice(AnswerModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    """Where they were asked for."""
    finish_reason: FinishReason | Literal["tool_calls"]


class ChatCompletion(AnswerModel):
    """The answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Source(AnswerModel):
    """An excerpt of a document that the model was given."""

    source: str
    """The file's name."""
    score: float
    """How close it is to the question."""
    text: str


# ---- /v1/responses -------------------------------------------------------------------------------


class OutputText(AnswerModel):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)]
    logprobs: list[TokenLogprob]
    """None but where they were asked for."""


class OutputMessage(AnswerModel):
    """What the assistant says."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[OutputText]


class IncompleteDetails(AnswerModel):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens", "content_filter"]


class InputTokenDetails(AnswerModel):
    """None are cached."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokenDetails(AnswerModel):
    """None are thoughts."""

    reasoning_tokens: int


class ResponseUsage(AnswerModel):
    """Tokens read and written."""

    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class ResponseText(AnswerModel):
    """How the text was to be written."""

    format: dict[str, Any]
    """As it was asked for."""


class ModelResponse(AnswerModel):
    """The answer of `/v1/responses`, with what was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputMessage]
    usage: ResponseUsage
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    temperature: float
    top_p: float
    top_logprobs: int
    text: ResponseText
    truncation: Literal["disabled"]
    tools: Annotated[list[Any], Field(max_length=0)]
    tool_choice: Literal["auto", "none"]
    parallel_tool_calls: Literal[False]
    previous_response_id: None
    reasoning: None
    background: Literal[False]
    store: Literal[False]
