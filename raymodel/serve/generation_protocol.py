"""What goes over the wire for generated text: OpenAI's completions and chat completions, with the
fields that vLLM adds.

Sources: https://platform.openai.com/docs/api-reference/chat,
https://platform.openai.com/docs/api-reference/completions,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from raymodel.serve.protocol import Ignored, Text, WireModel, unless
from raymodel.serve.sampling import Form
from raymodel.serve.sampling_protocol import MOST_TOP, SamplingRequest

_MOST_CHOICES = 128  # as OpenAI has it


class StreamOptions(WireModel):
    """What a stream holds beside the text."""

    include_usage: bool = False
    """End with a chunk that has `usage` and no choices."""
    continuous_usage_stats: Annotated[Any, unless(False)] = None
    include_obfuscation: Ignored = None


class JsonSchema(WireModel):
    """A schema, as OpenAI's clients wrap it."""

    name: Ignored = None
    description: Ignored = None
    strict: Ignored = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """What the answer holds; a schema that cannot be followed exactly is refused."""


class ResponseFormat(WireModel):
    """The form of an answer, as OpenAI has it."""

    type: Literal["text", "json_object", "json_schema"]
    """`text` is any."""
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)

    @field_validator("json_schema", mode="after")
    @classmethod
    def _with_its_type(cls, schema: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if (schema is not None) != (info.data.get("type") == "json_schema"):
            raise ValueError("it stands beside type: 'json_schema', and there it must")
        return schema

    @property
    def form(self) -> Form | None:
        """None of any text."""
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.schema_
        return None if self.type == "text" else json_form(schema)


class StructuredOutputs(WireModel):
    """The form of an answer, as vLLM has it."""

    json_: Annotated[str | dict[str, Any] | None, Field(alias="json")] = None
    """A JSON schema."""
    regex: Text | None = None
    """A regular expression that the whole answer matches."""
    choice: Annotated[list[Text], Field(min_length=1)] | None = None
    """Texts, one of which is the answer."""
    json_object: Literal[True] | None = None
    """Any JSON object."""
    grammar: Annotated[Any, unless()] = None
    structural_tag: Annotated[Any, unless()] = None
    disable_any_whitespace: Ignored = None
    disable_additional_properties: Annotated[Any, unless(False)] = None
    whitespace_pattern: Annotated[Any, unless()] = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        given = (self.json_, self.regex, self.choice, self.json_object)
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of json, regex, choice and json_object")
        return self

    @property
    def form(self) -> Form:
        """What is given."""
        if self.regex is not None:
            return Form("regex", self.regex)
        if self.choice is not None:
            return Form("choice", json.dumps(self.choice))
        return json_form({"type": "object"} if self.json_ is None else self.json_)


def json_form(schema: str | dict[str, Any]) -> Form:
    """Of a schema, which may be JSON already."""
    return Form("json", schema if isinstance(schema, str) else json.dumps(schema))


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
    best_of: Any = Field(default=None, validate_default=True)
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


def system_for_developer(role: str) -> str:
    """The role as templates know it."""
    return "system" if role == "developer" else role


class TextPart(WireModel):
    """A piece of a message."""

    type: Literal["text"]
    """Only text: this model neither sees nor hears."""
    text: Text


class Message(WireModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = Field(default=None, validate_default=True)
    """A text, or its parts; null for an answer that said nothing."""
    name: Ignored = None
    refusal: Annotated[Any, unless("")] = None
    annotations: Ignored = None
    tool_calls: Annotated[Any, unless([])] = None
    function_call: Annotated[Any, unless()] = None
    audio: Annotated[Any, unless()] = None
    reasoning_content: Ignored = None

    @field_validator("content", mode="after")
    @classmethod
    def _said(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role") not in (None, "assistant"):
            raise ValueError(f"a turn of the {info.data['role']} says something; give a text")
        return content

    @property
    def turn(self) -> dict[str, str]:
        """As a chat template takes it: the parts joined, and a `developer`, which is OpenAI's newer
        name, as `system`."""
        parts = [] if self.content is None else self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": system_for_developer(self.role), "content": text}


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    """Tell how probable each token of the answer was."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Beside each so many of the likeliest ones, with `logprobs: true`."""

    tools: Annotated[Any, unless([])] = None
    tool_choice: Annotated[Any, unless("none", "auto")] = None
    parallel_tool_calls: Ignored = None
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
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    """Or a conversation, as `/v1/chat/completions` does."""

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class TokenizeResponse(BaseModel):
    """The answer of `/tokenize`."""

    count: int
    max_model_len: int
    """The most tokens of prompt and answer together."""
    tokens: list[int]
    """What the model reads."""
