"""What goes over the wire for generated text: OpenAI's completions and chat completions, with the
fields that vLLM adds.

Sources: https://platform.openai.com/docs/api-reference/chat,
https://platform.openai.com/docs/api-reference/completions,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raymodel.serve.form_protocol import ResponseFormat, StructuredOutputs
from raymodel.serve.message_protocol import Messages
from raymodel.serve.protocol import AnswerModel, Ignored, Text, WireModel, unless
from raymodel.serve.sampling import Form
from raymodel.serve.sampling_protocol import MOST_TOP, SamplingRequest
from raymodel.serve.tool_protocol import NamedChoice, Tools, check_choice

_MOST_CHOICES = 128  # as OpenAI has it


class StreamOptions(WireModel):
    """What a stream holds beside the text."""

    include_usage: bool = False
    """End with a chunk that has `usage` and no choices."""
    continuous_usage_stats: Annotated[Any, unless(False)] = None
    include_obfuscation: Ignored = None


class GenerationRequest(SamplingRequest):
    """What completions and chats take."""

    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Longest answer; by default what `serve.max_tokens` and the context allow."""
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    """JSON, of any kind or of a schema."""
    structured_outputs: StructuredOutputs | None = None
    """A form of vLLM's: a schema of JSON, a regular expression, or one of some texts."""

    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = None
    """So many answers to each prompt, 1 by default. With `seed` the i-th of them, from 0, is the
    one that `seed + i` gives alone."""
    best_of: Any = Field(
        default=None,
        validate_default=True,
        json_schema_extra={"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    )
    """Not supported but for the value of `n`, with which it changes nothing."""
    bad_words: Annotated[Any, unless([])] = None
    skip_special_tokens: Annotated[Any, unless(True)] = None
    include_stop_str_in_output: Annotated[Any, unless(False)] = None
    guided_json: Annotated[Any, unless()] = None
    guided_regex: Annotated[Any, unless()] = None
    guided_choice: Annotated[Any, unless()] = None
    guided_grammar: Annotated[Any, unless()] = None
    metadata: Ignored = None
    store: Ignored = None

    @field_validator("best_of", mode="after")
    @classmethod
    def _all_are_told(cls, best_of: Any, info: ValidationInfo) -> Any:
        if best_of is not None and (best_of != (info.data.get("n") or 1) or best_of is True):
            raise ValueError(
                "this server gives all answers that it writes; ask for as many by n, with "
                "logprobs, and take the likeliest"
            )
        return best_of

    @model_validator(mode="after")
    def _one_form(self) -> GenerationRequest:
        if self.structured_outputs and self.response_format and self.response_format.form:
            raise ValueError("give either response_format or structured_outputs")
        return self

    @property
    def form(self) -> tuple[str, Form | None]:
        if self.structured_outputs is not None:
            return "structured_outputs", self.structured_outputs.form
        given = self.response_format
        return "response_format", None if given is None else given.form

    @property
    def limit(self) -> tuple[str, int | None]:
        return "max_tokens", self.max_tokens

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[list[int]], Field(min_length=1)]
    )
    """A text, token ids, or several of either."""
    echo: bool | None = None
    """The prompt stands before its answer, in the text and, where they are asked for, in the
    log-probabilities. With `max_tokens: 0` it stands alone."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Tell how probable each token was, and so many of the likeliest ones; the token's own number
    is always among them."""

    suffix: Annotated[Any, unless("")] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def num_top(self) -> int | None:
        return self.logprobs

    @property
    def scores_prompt(self) -> bool:
        return bool(self.echo) and self.logprobs is not None


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Messages
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    """Tell how probable each token of the answer was."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Beside each so many of the likeliest ones, with `logprobs: true`."""

    tools: Tools | None = None
    """Functions that the model may call, if its chat template shows them. The arguments of a call
    are JSON as the model wrote it, or what it wrote in another form as JSON; of one that is
    `required`, named or `strict`, they have its schema, of which texts without quotes follow only
    an enum."""
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = Field(
        default=None, validate_default=True
    )
    """`auto`, the default: it may call them; `required`: it must; `none`: it is not shown them; or
    a function, which it calls."""
    parallel_tool_calls: bool | None = None
    """`false`: one call an answer; what a model writes after it is left out."""
    functions: Annotated[Any, unless([])] = None
    function_call: Annotated[Any, unless("none", "auto")] = None
    modalities: Annotated[Any, unless(["text"])] = None
    audio: Annotated[Any, unless()] = None
    prediction: Annotated[Any, unless()] = None
    reasoning_effort: Annotated[Any, unless("none")] = None
    verbosity: Annotated[Any, unless()] = None
    web_search_options: Annotated[Any, unless()] = None
    chat_template: Annotated[Any, unless()] = None
    chat_template_kwargs: Annotated[Any, unless({})] = None
    add_generation_prompt: Annotated[Any, unless(True)] = None
    continue_final_message: Annotated[Any, unless(False)] = None

    @field_validator("tool_choice", mode="after")
    @classmethod
    def _offered(cls, choice: Any, info: ValidationInfo) -> Any:
        if "tools" in info.data:  # which may be wrong itself
            check_choice(choice, info.data["tools"] or [])
        return choice

    @field_validator("top_logprobs", mode="after")
    @classmethod
    def _beside_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and not info.data.get("logprobs"):
            raise ValueError("it stands beside logprobs: true; set that, or leave it out")
        return top

    @property
    def limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().limit

    @property
    def num_top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeRequest(WireModel):
    """`POST /tokenize`."""

    model: str
    prompt: Text | None = None
    """A text, as `/v1/completions` takes it."""
    messages: Messages | None = None
    """Or a conversation, as `/v1/chat/completions` does."""
    tools: Tools | None = None
    """With these functions, which its template shows the model."""

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class TokenizeResponse(AnswerModel):
    """The answer of `/tokenize`."""

    count: int
    max_model_len: int
    """The most tokens of prompt and answer together."""
    tokens: list[int]
    """What the model reads."""
