"""What goes over the wire for `/v1/responses` in its plain form: a text or turns in, a text out.

Nothing is kept between requests: what would need that is refused, so that no client waits for a
conversation that the server has forgotten.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raymodel.modality.chat import Turn
from raymodel.serve.form_protocol import json_form
from raymodel.serve.message_protocol import system_for_developer
from raymodel.serve.protocol import Ignored, Text, WireModel, unless
from raymodel.serve.sampling import Form
from raymodel.serve.sampling_protocol import MOST_TOP, SamplingRequest

LOGPROBS = "message.output_text.logprobs"
"""What `include` says to be told log-probabilities."""
# No part of these answers; clients ask for it whatever the model is.
_REASONING = "reasoning.encrypted_content"


class ContentPart(WireModel):
    """A piece of an item's text."""

    type: Literal["input_text", "output_text"]
    """Only text: this model neither sees nor hears."""
    text: Text
    annotations: Ignored = None
    logprobs: Ignored = None
    prompt_cache_breakpoint: Ignored = None


class InputItem(WireModel):
    """One turn: of a person, of the system, or an answer that was given before."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart]
    """A text, or its parts."""
    id: Ignored = None
    status: Ignored = None
    phase: Ignored = None

    @property
    def turn(self) -> Turn:
        """As a chat template takes it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": system_for_developer(self.role), "content": text}


class TextFormat(WireModel):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    """`text` is any."""
    name: Ignored = None
    description: Ignored = None
    strict: Ignored = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """What the answer holds, of the type `json_schema`."""

    @model_validator(mode="after")
    def _with_its_type(self) -> TextFormat:
        if (self.schema_ is not None) != (self.type == "json_schema"):
            raise ValueError("a schema stands beside type: 'json_schema', and there it must")
        return self

    @property
    def form(self) -> Form | None:
        """None of any text."""
        return None if self.type == "text" else json_form(self.schema_ or {"type": "object"})


class TextConfig(WireModel):
    """How the answer's text is written."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, unless()] = None


def keeps_nothing(value: Any, info: ValidationInfo) -> Any:
    """Refuses what a server without a memory cannot do."""
    if value:
        raise ValueError(
            "this server keeps no answers between requests; send the whole conversation as input, "
            f"and leave {info.field_name} out"
        )
    return value


class ResponsesRequest(SamplingRequest):
    """`POST /v1/responses`."""

    input: Text | Annotated[list[InputItem], Field(min_length=1)]
    """What a person says, or all turns so far."""
    instructions: Text | None = None
    """A turn of the system before them."""
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer; by default what `serve.max_tokens` and the context allow."""
    include: list[str] | None = Field(
        default=None, json_schema_extra={"items": {"enum": [LOGPROBS, _REASONING]}}
    )
    """`message.output_text.logprobs`: tell how probable each token of the answer was."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    """Beside each so many of the likeliest ones, with the above."""
    text: TextConfig | None = None
    """The form of the answer."""

    previous_response_id: str | None = Field(default=None, json_schema_extra={"enum": [None]})
    """Not supported: this server keeps no answers."""
    conversation: Any = Field(default=None, json_schema_extra={"enum": [None]})
    """Not supported, as above."""
    store: bool | None = Field(default=None, json_schema_extra={"enum": [None, False]})
    """Nothing is stored; `true` is refused."""
    background: bool | None = Field(default=None, json_schema_extra={"enum": [None, False]})
    """Not supported: an answer is waited for."""
    prompt: Annotated[Any, unless()] = None
    tools: Any = Field(default=None, json_schema_extra={"enum": [None, []]})
    """Not supported: `/v1/chat/completions` takes tools."""
    tool_choice: Annotated[Any, unless("none", "auto")] = None
    reasoning: Annotated[Any, unless({})] = None
    truncation: Annotated[Any, unless("disabled")] = None
    moderation: Annotated[Any, unless()] = None
    context_management: Annotated[Any, unless([])] = None
    parallel_tool_calls: Ignored = None
    max_tool_calls: Ignored = None
    metadata: dict[str, str] | None = None
    """Comes back with the answer."""
    prompt_cache_options: Ignored = None
    stream_options: Ignored = None

    @field_validator("previous_response_id", "conversation", "store", "background", mode="after")
    @classmethod
    def _keep_nothing(cls, value: Any, info: ValidationInfo) -> Any:
        return keeps_nothing(value, info)

    @field_validator("tools", mode="after")
    @classmethod
    def _in_chats(cls, tools: Any) -> Any:
        if tools is not None and tools != []:
            raise ValueError("here it is not supported; /v1/chat/completions takes tools")
        return tools

    @field_validator("include", mode="after")
    @classmethod
    def _known(cls, include: list[str] | None) -> list[str] | None:
        for name in include or ():
            if name not in (LOGPROBS, _REASONING):
                raise ValueError(f"{ascii(name)[:80]} is not told here; {LOGPROBS} is")
        return include

    @field_validator("top_logprobs", mode="after")
    @classmethod
    def _beside_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and LOGPROBS not in (info.data.get("include") or ()):
            raise ValueError(f"it stands beside include: [{LOGPROBS!r}]; set that, or leave it out")
        return top

    @property
    def turns(self) -> list[Turn]:
        """The conversation, as a chat template takes it."""
        said: list[Turn] = []
        if self.instructions:
            said.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*said, {"role": "user", "content": self.input}]
        return said + [item.turn for item in self.input]

    @property
    def form(self) -> tuple[str, Form | None]:
        given = None if self.text is None else self.text.format
        return "text.format", None if given is None else given.form

    @property
    def limit(self) -> tuple[str, int | None]:
        return "max_output_tokens", self.max_output_tokens

    @property
    def num_top(self) -> int | None:
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None
