"""What goes over the wire: OpenAI's requests and answers, and vLLM's `/classify`.

Fields that clients send and that change nothing here (`user`, `metadata`, …) are accepted. Fields
that would change the answer and are not supported are refused, and so is what nobody knows, which
may be misspelt: an answer that silently ignores half of the question is worse than none.

Sources: https://platform.openai.com/docs/api-reference,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#classification-api
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from raymodel.serve.problems import UNKNOWN_FIELD


def check_unicode(text: str) -> str:
    r"""JSON can say `"\ud800"`, half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not valid Unicode at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(check_unicode)]
_MOST_STOPS = 4  # as OpenAI has it


def _is_same(value: object, allowed: object) -> bool:
    # Python holds 0 and False for equal, but `logprobs: 0` asks for something, `false` does not.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


class WireModel(BaseModel):
    """A request: strict types, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _know_all(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        unknown = [name for name in data if name not in cls.model_fields]
        asked = [name for name in unknown if data[name] is not None]
        if asked:
            name = asked[0].encode(errors="replace").decode()
            given = {"name": name, "known": list(cls.model_fields)}
            raise PydanticCustomError(UNKNOWN_FIELD, "unknown field", given)
        return {name: value for name, value in data.items() if name not in unknown}


def unless(*allowed: Any) -> Any:
    """Marks a field that is not supported: with null and with these values it changes nothing."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None or any(_is_same(value, each) for each in allowed):
            return value
        raise ValueError(
            f"this server does not support it, and it would change the answer; leave "
            f"{info.field_name} out"
        )

    return AfterValidator(check)


Ignored = Annotated[Any, Field(description="Taken, and without effect.")]


class StreamOptions(WireModel):
    """What a stream holds beside the text."""

    include_usage: bool = False
    """End with a chunk that has `usage` and no choices."""
    continuous_usage_stats: Annotated[Any, unless(False)] = None
    include_obfuscation: Ignored = None


class GenerationRequest(WireModel):
    """What both kinds of generation take."""

    model: str
    """A name that `/v1/models` lists."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; 1 by default."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling; 1, everything, by default."""
    seed: int | None = None
    """The same seed gives the same answer."""
    stop: str | list[str] | None = None
    """Up to four strings before the first of which the answer ends."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; by default what `serve.max_tokens` and the context allow."""
    stream: bool | None = False
    """Server-sent events, closed by `data: [DONE]`."""
    stream_options: StreamOptions | None = None

    n: Annotated[Any, unless(1)] = None
    """One answer a prompt."""
    best_of: Annotated[Any, unless(1)] = None
    logit_bias: Annotated[Any, unless({})] = None
    presence_penalty: Annotated[Any, unless(0)] = None
    frequency_penalty: Annotated[Any, unless(0)] = None
    repetition_penalty: Annotated[Any, unless(1)] = None
    top_k: Annotated[Any, unless(-1, 0)] = None
    min_p: Annotated[Any, unless(0)] = None
    min_tokens: Annotated[Any, unless(0)] = None
    stop_token_ids: Annotated[Any, unless([])] = None
    bad_words: Annotated[Any, unless([])] = None
    ignore_eos: Annotated[Any, unless(False)] = None
    skip_special_tokens: Annotated[Any, unless(True)] = None
    include_stop_str_in_output: Annotated[Any, unless(False)] = None
    response_format: Annotated[Any, unless({"type": "text"})] = None
    structured_outputs: Annotated[Any, unless()] = None
    guided_json: Annotated[Any, unless()] = None
    guided_regex: Annotated[Any, unless()] = None
    guided_choice: Annotated[Any, unless()] = None
    guided_grammar: Annotated[Any, unless()] = None
    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    request_id: Ignored = None
    priority: Ignored = None

    @field_validator("stop", mode="after")
    @classmethod
    def _refuse_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if "" in stops:
            raise ValueError("a stop string has at least one character")
        if len(stops) > _MOST_STOPS:
            raise ValueError(f"{len(stops)} strings are given; give at most {_MOST_STOPS}")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

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

    echo: Annotated[Any, unless(False)] = None
    suffix: Annotated[Any, unless("")] = None
    logprobs: Annotated[Any, unless(False)] = None


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
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`."""

    tools: Annotated[Any, unless([])] = None
    tool_choice: Annotated[Any, unless("none", "auto")] = None
    parallel_tool_calls: Ignored = None
    functions: Annotated[Any, unless([])] = None
    function_call: Annotated[Any, unless("none", "auto")] = None
    logprobs: Annotated[Any, unless(False)] = None
    top_logprobs: Annotated[Any, unless(0)] = None
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


class ClassifyRequest(WireModel):
    """`POST /classify`."""

    model: str
    input: Text | Annotated[list[Text], Field(min_length=1)]
    """A text, or several."""
    user: Ignored = None

    @property
    def texts(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class PredictRequest(WireModel):
    """`POST /predict`."""

    model: str
    inputs: dict[str, Any] | Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Role → value, of one input or of several: a text, a list of texts, or the bytes of a
    file in base64, an image or a clip; which roles there are, `/health` says."""

    @property
    def all_inputs(self) -> list[dict[str, Any]]:
        """The inputs as a list."""
        return [self.inputs] if isinstance(self.inputs, dict) else self.inputs


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class Classification(BaseModel):
    """The class of one input, the most probable where it may have several."""

    index: int
    label: str
    probs: list[float]
    """One for each class, in the order of the model's labels."""
    num_classes: int


class ClassifyResponse(BaseModel):
    """The answer of `/classify`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classification]
    usage: Usage


class PredictResponse(BaseModel):
    """The answer of `/predict`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[dict[str, Any]]
    """`index`, and what the task answers: `label` and `probs`, …"""
    usage: Usage


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every answer that is not 2xx."""

    error: ErrorDetail


def usage(prompt_tokens: int, completion_tokens: int = 0) -> Usage:
    """Usage with its total."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
