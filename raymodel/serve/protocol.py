"""What goes over the wire: OpenAI's requests and answers, and vLLM's `/classify`.

Fields that clients send and that change nothing here (`user`, `metadata`, …) are accepted. Fields
that would change the answer and are not supported are refused: an answer that silently ignores
half of the question is worse than none.

Sources: https://platform.openai.com/docs/api-reference,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#classification-api
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def check_unicode(text: str) -> str:
    r"""JSON can say `"\ud800"`, half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not valid Unicode at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(check_unicode)]
StopStrings = str | Annotated[list[str], Field(max_length=4)] | None


def _is_same(value: object, allowed: object) -> bool:
    # Python holds 0 and False for equal, but `logprobs: 0` asks for something, `false` does not.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


class WireModel(BaseModel):
    """A request: strict types, unknown fields kept aside."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)


class StreamOptions(WireModel):
    """What a stream holds beside the text."""

    include_usage: bool = False
    """End with a chunk that has `usage` and no choices."""


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
    stop: StopStrings = None
    """Up to four strings before the first of which the answer ends."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; by default what `serve.max_tokens` and the context allow."""
    stream: bool | None = False
    """Server-sent events, closed by `data: [DONE]`."""
    stream_options: StreamOptions | None = None

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n": (1,),
        "best_of": (1,),
        "logprobs": (False,),
        "logit_bias": ({},),
        "presence_penalty": (0,),
        "frequency_penalty": (0,),
        "repetition_penalty": (1,),
        "top_k": (-1, 0),
        "min_p": (0,),
        "response_format": ({"type": "text"},),
    }
    """Fields that are not supported → the values with which they change nothing (None always)."""

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> GenerationRequest:
        extra = self.__pydantic_extra__ or {}
        for name, allowed in self.neutral.items():
            value = extra.get(name)
            if value is not None and not any(_is_same(value, ok) for ok in allowed):
                raise ValueError(
                    f"{name} = {ascii(value)[:80]} is not supported by this server and would "
                    f"change the answer; leave {name} out"
                )
        if "" in self.stops:
            raise ValueError("stop holds an empty string; a stop string has at least one character")
        return self

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

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = GenerationRequest.neutral | {
        "echo": (False,),
        "suffix": ("",),
    }


class TextPart(WireModel):
    """A piece of a message."""

    type: Literal["text"]
    """Only text: this model neither sees nor hears."""
    text: Text


class Message(WireModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def turn(self) -> dict[str, str]:
        """As a chat template takes it: the parts joined, and a `developer`, which is OpenAI's newer
        name, as `system`."""
        is_text = isinstance(self.content, str)
        text = self.content if is_text else "".join(part.text for part in self.content)  # type: ignore[union-attr]
        return {"role": "system" if self.role == "developer" else self.role, "content": str(text)}


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    """The conversation so far."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = GenerationRequest.neutral | {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "top_logprobs": (0,),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
    }


class ClassifyRequest(WireModel):
    """`POST /classify`."""

    model: str
    input: Text | Annotated[list[Text], Field(min_length=1)]
    """A text, or several."""

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
